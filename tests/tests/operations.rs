//! What operators do and see: the real program, on real servers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use e2e::processes::{Processes, binary, new_directory};
use e2e::system::{Dunlin, PATIENCE, config_dir, draft, event};
use events::{Kind, Service};
use kernel::{Clock, SystemClock};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use testkit::servers::{Process, free_port};
use testkit::stripe::Webhooks;
use testkit::wait;

/// Monday, 1 June 2026, ten o'clock in Berlin.
const START: &str = "2026-06-01T08:00:00Z";

/// Runs `dunlin` with a settings file.
fn dunlin(settings: &Path, arguments: &[&str]) -> Output {
    Command::new(binary().unwrap()).arg("--config").arg(settings).args(arguments).output().unwrap()
}

fn stdout(output: Output) -> String {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{out}{err}");
    out
}

#[test]
fn a_broken_configuration_stops_the_start_with_every_fault_at_once() {
    let directory = new_directory().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "dunlin.yaml",
        "config_dir: .\nadmin_listen: 127.0.0.1:0\npostgres: { url: postgres://127.0.0.1/dunlin }\n\
         nats: { url: nats://127.0.0.1, replicas: many }\nlinks: { public_url: http://localhost, key: short }\n\
         ingest: { http_listen: 127.0.0.1:0, grpc_listen: nowhere }\nnotifier: { smtp: { host: relay } }\n\
         tracker: { pages_listen: 127.0.0.1:0, dashboard_listen: 127.0.0.1:0 }\nschedular: {}\n",
    );
    write("merchants/acme.yaml", "name: Acme\ntime_zone: Mars/Base\nsender: { name: Anna, email: anna }\n");
    write("campaigns/default.yaml", "name: Default\nstep: []\n");
    for command in [&["check"][..], &["run", "ingest"]] {
        let output = dunlin(&directory.join("dunlin.yaml"), command);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{told}");
        for expected in [
            "dunlin.yaml:4: nats.replicas",
            "dunlin.yaml:6: ingest.grpc_listen: is no address with a port",
            "dunlin.yaml:7: notifier.smtp.port: is missing",
            "dunlin.yaml:9: schedular: is not a known key; did you mean scheduler?",
            "acme.yaml:2: time_zone: \"Mars/Base\" is not a time zone",
            "acme.yaml:3: sender.email: is no e-mail address",
            "default.yaml:2: step: is not a known key; did you mean steps?",
        ] {
            assert!(told.contains(expected), "{expected:?} is missing in\n{told}");
        }
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_its_servers_and_says_for_what() {
    let directory = new_directory().unwrap();
    let mut system = Processes::servers(&directory, None).await.unwrap();
    system.nats.kill().unwrap();
    system.postgres.stop().unwrap();
    let admin = format!("127.0.0.1:{}", free_port().unwrap());
    let (settings, log) = (directory.join("dunlin.yaml"), directory.join("waiting.log"));
    let arguments = ["--config", settings.to_str().unwrap(), "run", "ingest"];
    let _service =
        Process::start_with(&binary().unwrap(), &arguments, &[("DUNLIN_ADMIN_LISTEN", &admin)], &log).unwrap();

    let client = reqwest::Client::new();
    let ask = |path: &'static str| {
        let (client, url) = (client.clone(), format!("http://{admin}{path}"));
        async move {
            let response = client.get(url).send().await.ok()?;
            Some((response.status().as_u16(), response.text().await.ok()?))
        }
    };
    let says = |expected: &'static str| {
        let log = log.clone();
        wait::until_true(expected, PATIENCE, move || {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            async move { told.contains(expected) }
        })
    };
    says("waiting for Postgres").await;
    let (status, report) = ask("/readyz?verbose").await.unwrap();
    assert!(
        status == 503 && report.contains("ingest postgres: ") && report.contains("ingest nats: not connected"),
        "{report}"
    );
    assert_eq!(ask("/livez").await.unwrap().0, 200, "waiting is no reason to be restarted");

    system.postgres.launch().await.unwrap();
    says("waiting for NATS").await;
    let (status, report) = ask("/readyz").await.unwrap();
    assert!(status == 503 && !report.contains("postgres") && report.contains("nats"), "{report}");

    system.nats.launch().await.unwrap();
    wait::until_true("readiness", PATIENCE, || async { ask("/readyz").await.is_some_and(|(status, _)| status == 200) })
        .await;
    drop((_service, system));
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_waits_for_an_operator_while_the_rest_goes_on() {
    let dunlin_system = Dunlin::start(START).await;
    let settings = dunlin_system.settings_file();
    let ingest = dunlin_system.system.common.nats.broker("ingest");
    let js = bus::broker::jetstream(bus::broker::connect("ingest", &ingest).await.unwrap());
    js.publish(Kind::InvoiceIssued.subject("acme"), "poison".into()).await.unwrap().await.unwrap();
    dunlin_system.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin_system.live_until("2026-06-11T12:00:00Z").await;
    assert_eq!(dunlin_system.mails(), ["Thu 11 Jun in_1:overdue-3"], "the rest goes on");

    let letters: serde_json::Value = serde_json::from_str(&stdout(dunlin(
        &settings,
        &["dead-letters", "list", "--service", "scheduler", "--output", "json"],
    )))
    .unwrap();
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters:#}");
    let id = letters[0]["id"].as_str().unwrap();
    let shown = stdout(dunlin(&settings, &["dead-letters", "show", id]));
    assert!(shown.contains("ce-id: is missing") && shown.contains("dunlin.v1.invoice-issued.acme"), "{shown}");

    // Without a fix it comes back.
    stdout(dunlin(&settings, &["dead-letters", "replay", id]));
    let attempts = || async {
        let attempts: i32 = sqlx::query_scalar("SELECT attempts FROM scheduler.dead_letter")
            .fetch_one(&dunlin_system.pool)
            .await
            .unwrap();
        attempts == 2
    };
    wait::until_true("a second attempt", PATIENCE, attempts).await;
    for service in ["scheduler", "segmenter", "notifier", "tracker"] {
        let listed: serde_json::Value = serde_json::from_str(&stdout(dunlin(
            &settings,
            &["dead-letters", "list", "--service", service, "--output", "json"],
        )))
        .unwrap();
        stdout(dunlin(&settings, &["dead-letters", "drop", listed[0]["id"].as_str().unwrap()]));
    }
    dunlin_system.end().await;
}

/// The project's configuration without one of its merchants.
fn configuration_without(merchant: &str, directory: &Path) -> String {
    let target = directory.join("lacking");
    for part in ["merchants", "campaigns"] {
        std::fs::create_dir_all(target.join(part)).unwrap();
        for entry in std::fs::read_dir(config_dir().join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().unwrap() != merchant {
                std::fs::copy(&path, target.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    target.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_gave_up_works_after_the_fix() {
    let directory = new_directory().unwrap();
    let mut system = Processes::servers(&directory, None).await.unwrap();
    for service in Service::ALL {
        system.environment.clear();
        if service == Service::Scheduler {
            system.environment.push(("DUNLIN_CONFIG_DIR", configuration_without("globex", &directory)));
        }
        system.start_service(service).unwrap();
    }
    let ingest = format!("http://{}", system.configuration.settings.ingest.http_listen);
    for merchant in system.configuration.merchants.iter() {
        let secret = merchant.file.stripe.as_ref().and_then(|s| s.signing_secrets.first()).unwrap().clone();
        let webhooks = Webhooks::new(reqwest::Client::new(), &ingest, merchant.id.as_str(), secret);
        let mut invoice = draft("in_1", "cus_1", SystemClock.now(), None);
        invoice.status = "open";
        webhooks.post(&event("invoice.finalized", &invoice, SystemClock.now()), PATIENCE).await.unwrap();
    }
    let pool = system.pool().await.unwrap();
    let state = || async {
        let of = "SELECT (SELECT array_agg(merchant ORDER BY merchant) FROM scheduler.dunning_case),
                         (SELECT array_agg(reason) FROM scheduler.dead_letter)";
        let (cases, letters): (Option<Vec<String>>, Option<Vec<String>>) =
            sqlx::query_as(of).fetch_one(&pool).await.unwrap();
        (cases.unwrap_or_default(), letters.unwrap_or_default())
    };
    wait::until_true("one case and one dead letter", PATIENCE, || async {
        let (cases, letters) = state().await;
        cases == ["acme"] && matches!(letters.as_slice(), [reason] if reason.contains("no configured merchant"))
    })
    .await;

    system.environment.clear();
    system.restart(Service::Scheduler).unwrap();
    stdout(dunlin(&directory.join("dunlin.yaml"), &["dead-letters", "replay", "scheduler/all"]));
    wait::until_true("both cases", PATIENCE, || async {
        state().await == (vec!["acme".into(), "globex".into()], vec![])
    })
    .await;
    system.stop().unwrap();
    drop(system);
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_invoice_is_told_in_order_and_what_was_sent_can_be_shown() {
    let dunlin_system = Dunlin::start(START).await;
    let settings = dunlin_system.settings_file();
    let mut invoice = dunlin_system.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin_system.live_until("2026-06-12T08:00:00Z").await;
    dunlin_system.pay(&mut invoice, 10_000).await;
    dunlin_system.live_until("2026-06-20T08:00:00Z").await;

    let story = stdout(dunlin(&settings, &["explain", "acme/in_1"]));
    let mut rest = story.as_str();
    for expected in ["invoice.finalized", "overdue", "overdue-3", "reminder ended: handed_off", "invoice.paid"] {
        let at = rest.find(expected).unwrap_or_else(|| panic_with(expected, &story));
        rest = &rest[at..];
    }
    assert!(story.contains("id "), "{story}");
    assert_eq!(stdout(dunlin(&settings, &["explain", "acme/IN-1"])), story, "the printed number will do");
    let unknown = dunlin(&settings, &["explain", "acme/in_2"]);
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("nothing is known"));

    let deliveries: serde_json::Value =
        serde_json::from_str(&stdout(dunlin(&settings, &["deliveries", "list", "--output", "json"]))).unwrap();
    assert_eq!(deliveries[0]["state"], "handed_off", "{deliveries:#}");
    let shown = stdout(dunlin(&settings, &["deliveries", "show", deliveries[0]["id"].as_str().unwrap()]));
    assert_eq!(shown, dunlin_system.catcher.mails()[0].text(), "support sees what the payer saw");

    // Publishing everything again changes nothing.
    let before = (dunlin_system.catcher.count(), dunlin_system.decisions().await);
    for service in Service::ALL {
        let window = ["--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
        let told = stdout(dunlin(&settings, &[&["replay", service.name()], &window[..]].concat()));
        assert!(told.contains("event"), "{told}");
    }
    let left = || async {
        let mut left = 0;
        for service in Service::ALL {
            let pool = &dunlin_system.pool;
            let statement = format!("SELECT count(*) FROM {service}.outbox_pending");
            left += sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(statement)).fetch_one(pool).await.unwrap();
        }
        left == 0
    };
    wait::until_true("everything published again", PATIENCE, left).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    dunlin_system.settle().await;
    assert_eq!((dunlin_system.catcher.count(), dunlin_system.decisions().await), before);
    dunlin_system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_and_who_is_not_written_to_are_in_the_operators_hands() {
    let dunlin_system = Dunlin::start(START).await;
    let settings = dunlin_system.settings_file();
    let run = |arguments: &[&str]| dunlin(&settings, arguments);
    let refused = |output: Output| {
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    dunlin_system.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin_system.live_until("2026-06-12T08:00:00Z").await;
    let (delivery, recipient): (uuid::Uuid, String) =
        sqlx::query_as("SELECT delivery, recipient FROM notifier.message")
            .fetch_one(&dunlin_system.pool)
            .await
            .unwrap();

    // An answer, and somebody who only knows the number of the message.
    let mails = settings.with_file_name("mails");
    std::fs::create_dir(&mails).unwrap();
    let write = |name: &str, from: &str, text: &str| {
        let mail = format!(
            "From: {from}\r\nTo: billing@acme.example\r\nSubject: Re: invoice\r\nMessage-ID: <{name}@x.example>\r\n\
             In-Reply-To: <{delivery}@acme.example>\r\n\r\n{text}\r\n> Please pay\r\n"
        );
        std::fs::write(mails.join(format!("{name}.eml")), mail).unwrap();
    };
    write("answer", &recipient, "I have paid yesterday.\r\nAda");
    write("stranger", "eve@evil.example", "Nobody owes anything.");
    let mails = mails.to_str().unwrap();
    let told = stdout(run(&["inbound", "feed", "--dry-run", mails]));
    assert!(told.contains("reply") && told.contains("authentic  held") && told.contains("claimed"), "{told}");
    assert_eq!(stdout(run(&["inbound", "list", "--output", "json"])).trim(), "[]", "a dry run keeps nothing");
    assert_eq!(stdout(run(&["inbound", "feed", mails])), told);
    let again = stdout(run(&["inbound", "feed", mails]));
    assert_eq!(again.matches("known already").count(), 2, "{again}");
    let list = |more: &[&str]| -> serde_json::Value {
        let arguments = [&["inbound", "list", "--class", "reply", "--output", "json"], more].concat();
        serde_json::from_str(&stdout(run(&arguments))).unwrap()
    };
    assert_eq!((list(&[]).as_array().unwrap().len(), list(&["--unmatched"]).as_array().unwrap().len()), (2, 1));
    assert_eq!(list(&["--unmatched"])[0]["effect"], "none");
    let proven = list(&[]).as_array().unwrap().iter().find(|row| row["matched"] == "authentic").unwrap().clone();
    let shown = stdout(run(&["inbound", "show", proven["id"].as_str().unwrap()]));
    assert!(shown.contains("I have paid yesterday.") && shown.contains("In-Reply-To"), "{shown}");
    let story = stdout(run(&["explain", "acme/in_1"]));
    assert!(story.contains("payer answered (held)") && !story.contains("yesterday"), "{story}");
    let story = stdout(run(&["explain", "acme/in_1", "--messages"]));
    assert!(story.contains("payer answered (held: I have paid yesterday.\n"), "{story}");
    assert!(story.contains(" Ada)\n") && !story.contains("Please pay"), "{story}");
    assert!(refused(run(&["inbound", "show", &uuid::Uuid::nil().to_string()])).contains("no such message"));

    // The list of those who are not written to.
    let by = ["--merchant", "acme", "--by", "anna"];
    let add = |more: &[&str]| run(&[&["suppression", "add"], &by[..], more].concat());
    assert_eq!(stdout(add(&["--address", "Eve@Evil.example"])), "added\n");
    assert_eq!(stdout(add(&["--address", "eve@evil.example"])), "was on the list already\n");
    assert_eq!(
        stdout(add(&["--channel", "sms", "--address", "+49 151 12345678", "--reason", "unsubscribed"])),
        "added\n"
    );
    for (arguments, fault) in [
        (&["--address", "nobody"][..], "--address is no e-mail address"),
        (&["--channel", "fax", "--address", "1"], "--channel \"fax\" is none: write email, sms, webhook or task"),
        (&["--channel", "sms", "--address", "0151"], "--address is no number with its country code"),
        (&["--customer", "cus_1", "--reason", "because"], "--reason \"because\" is not one of"),
    ] {
        let told = refused(add(arguments));
        assert!(told.contains(fault), "{told}");
    }
    let file = settings.with_file_name("list.csv");
    std::fs::write(&file, "merchant,address,channel\nacme,a@b.example,\nacme,a@b.example,sms\nnobody,a@b.example,\n")
        .unwrap();
    let import =
        |more: &[&str]| run(&[&["suppression", "import", file.to_str().unwrap(), "--by", "anna"], more].concat());
    let told = refused(import(&[]));
    assert!(told.contains("list.csv:3: address: ") && told.contains("list.csv:4: merchant: "), "{told}");
    assert!(told.contains("2 fault(s); nothing was changed"), "{told}");
    std::fs::write(&file, "merchant,address,customer,channel\nacme,a@b.example,,\nacme,,cus_7,task\n").unwrap();
    assert!(stdout(import(&["--dry-run"])).contains("2 would be added, 0 known already"));
    assert!(stdout(import(&[])).contains("2 added, 0 known already"));
    let exported = stdout(run(&["suppression", "export"]));
    for row in [
        "acme,email,,eve@evil.example,manual,operator anna,",
        "acme,sms,,+4915112345678,unsubscribed,",
        "acme,task,cus_7,,manual,import,",
    ] {
        assert!(exported.contains(row), "{row} is missing in\n{exported}");
    }
    std::fs::write(&file, &exported).unwrap();
    assert!(stdout(import(&[])).contains("0 added, 4 known already"), "what is exported can be imported");
    let remove = |more: &[&str]| run(&[&["suppression", "remove", "--reason", "asked"], &by[..], more].concat());
    assert!(refused(remove(&["--address", "+4915112345678"])).contains("is no e-mail address"));
    assert_eq!(stdout(remove(&["--channel", "sms", "--address", "+4915112345678"])), "removed\n");
    assert!(refused(remove(&["--channel", "sms", "--address", "+4915112345678"])).contains("is not on the list"));
    let listed = stdout(run(&["suppression", "list"]));
    assert!(listed.contains("address:eve@evil.example") && !listed.contains("+49151"), "{listed}");
    published(&dunlin_system, Service::Notifier).await;
    dunlin_system.end().await;
}

/// What a command decides is told by the running service, some seconds later.
async fn published(system: &Dunlin, service: Service) {
    let statement = format!("SELECT NOT EXISTS (SELECT FROM {service}.outbox_pending)");
    wait::until_true("everything to be published", PATIENCE, || async {
        sqlx::query_scalar(sqlx::AssertSqlSafe(statement.clone())).fetch_one(&system.pool).await.unwrap()
    })
    .await;
}

#[expect(clippy::panic, reason = "a test may panic")]
fn panic_with(expected: &str, story: &str) -> usize {
    panic!("{expected:?} is missing, or out of order, in\n{story}")
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_act_from_the_command_line_and_the_story_names_them() {
    let dunlin_system = Dunlin::start(START).await;
    let settings = dunlin_system.settings_file();
    // The commands live in the machine's time: what is due then is far away from what the test's clock says.
    dunlin_system.issue("in_1", "cus_1", "2036-06-08").await;
    dunlin_system.settle().await;
    let place = |more: &[&str]| dunlin(&settings, &[&["hold", "place"], more].concat());
    let why = ["--by", "anna", "--reason", "asked for a copy"];
    let told = stdout(place(&[&["acme/in_1"], &why[..]].concat()));
    assert_eq!(told, "hold 1 until somebody releases it; open invoices that it holds now: 1\n");
    stdout(place(&[&["--customer", "acme/cus_1", "--until", "2036-06-20", "--promise"], &why[..]].concat()));
    let listed = stdout(dunlin(&settings, &["hold", "list"]));
    assert!(listed.contains("manual   acme/in_1") && listed.contains("waits for a person"), "{listed}");
    assert!(listed.contains("promise  acme/cus_1 (all)") && listed.contains("2036-06-20"), "{listed}");
    let waiting: serde_json::Value =
        serde_json::from_str(&stdout(dunlin(&settings, &["hold", "list", "--waiting", "--output", "json"]))).unwrap();
    assert_eq!(waiting.as_array().unwrap().len(), 1, "{waiting:#}");
    assert_eq!((&waiting[0]["kind"], &waiting[0]["by"]), (&"manual".into(), &"anna".into()));

    let refused = dunlin(&settings, &[&["send-now", "acme/in_1"], &why[..]].concat());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{told}");
    assert!(told.contains("refused: "), "{told}");
    assert_eq!(stdout(dunlin(&settings, &["release", "1", "--by", "bert"])), "released: 1\n");
    assert_eq!(dunlin(&settings, &["release", "1", "--by", "bert"]).status.code(), Some(3));
    assert_eq!(dunlin(&settings, &["release", "77", "--by", "bert"]).status.code(), Some(1));
    assert_eq!(stdout(dunlin(&settings, &["release", "--customer", "acme/cus_1", "--by", "bert"])), "released: 2\n");
    stdout(dunlin(&settings, &[&["skip", "acme/in_1", "overdue-3"], &why[..]].concat()));
    assert_eq!(dunlin(&settings, &[&["skip", "acme/in_1", "overdue-3"], &why[..]].concat()).status.code(), Some(3));
    assert_eq!(dunlin(&settings, &["skip", "acme/in_1", "overdue-7"]).status.code(), Some(2), "without a reason");
    let past = dunlin(&settings, &[&["hold", "place", "acme/in_1", "--until", "2020-01-01"], &why[..]].concat());
    assert_eq!(past.status.code(), Some(2), "in the past");

    published(&dunlin_system, Service::Scheduler).await;
    let story = stdout(dunlin(&settings, &["explain", "acme/in_1"]));
    for expected in [
        "hold 1 (asked for a copy, by anna)",
        "released hold 1 (by bert)",
        "promise to pay 2 until 2036-06-20",
        "decided step overdue-3: skipped (operator, operator anna: asked for a copy",
    ] {
        assert!(story.contains(expected), "{expected:?} is missing in\n{story}");
    }
    let told = stdout(dunlin(&settings, &["campaign", "migrate", "default", "--dry-run", "--by", "anna"]));
    assert!(told.starts_with("0 running cases of default would move"), "{told}");
    dunlin_system.end().await;
}
