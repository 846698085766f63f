//! The lift report as a page.

use super::minute;
use crate::lift::{ByGroup, COMPARATOR, Lift};
use payer::lift::cards;

/// What the report does not show, whatever it says: nobody should take it for that.
const NOT_SHOWN: [&str; 6] = [
    "That the timing of a reminder, rather than its existence, makes people pay on time.",
    "What reminders bring against none: those held out are reminded too, on the static schedule.",
    "What it would bring elsewhere. It is about this merchant, these campaigns and this time.",
    "A percentage to expect. A goal is no result, and a figure from a simulator or from old ledgers is no effect.",
    "That an hour or a weekday suits a single customer.",
    "A saving of messages, unless it was measured against the best fixed day: against a single reminder on the eve it looks \
     larger than it is.",
];

/// The page.
pub fn lift(lift: &Lift) -> String {
    let excluded = lift.excluded;
    let row = |what: &str, n: ByGroup| {
        let counts = [n.treated, n.held_out, n.customers_held_out].map(|n| n.to_string());
        [vec![what.to_owned()], counts.to_vec()].concat()
    };
    let rows = [
        row("left out: not heard of yet", excluded.unheard_of),
        row("left out: taken back by the merchant", excluded.void),
        row("left out: paid, and the money taken back", excluded.begun_anew),
        row("left out: without a due date", excluded.without_due_date),
        row("counted as it is: disputed now", lift.disputed),
        row("counted as never paid: written off", lift.written_off),
    ];
    let special = [
        plot::table(&["invoices", "treated", "held out", "customers held out"], rows),
        plot::aside(
            "Were one column much fuller than its share of invoices, that would be an effect of the schedule itself.",
        ),
    ];
    let not_shown: String = NOT_SHOWN.iter().map(|claim| format!("<li>{}</li>\n", plot::escape(claim))).collect();
    let body = [
        navigation(lift),
        format!("<p>Measured {}, drawn by chance. {}</p>\n", plot::escape(COMPARATOR), due_only(lift)),
        cards(&lift.report),
        plot::grid(
            &[
                plot::wide_card("What this does not show", &format!("<ul>\n{not_shown}</ul>\n")),
                plot::wide_card("Invoices that ended in another way", &special.concat()),
            ]
            .concat(),
        ),
    ];
    plot::page(&title(lift), &body.concat())
}

fn title(lift: &Lift) -> String {
    match &lift.campaign {
        Some(campaign) => format!("Lift: {}, campaign {campaign}", lift.merchant),
        None => format!("Lift: {}", lift.merchant),
    }
}

fn due_only(lift: &Lift) -> &'static str {
    if lift.report.left_out.decided_after_due == 0 {
        ""
    } else {
        "Invoices that no adaptive step can reach up to their due date are not in this comparison: on being paid on time such \
         a schedule has exactly no effect, by definition."
    }
}

fn navigation(lift: &Lift) -> String {
    let here = format!("/merchants/{}/lift", lift.merchant);
    let link = |to: &str, name: &str| format!("<a href=\"{}\">{}</a>", plot::escape(to), plot::escape(name));
    let only = |campaign: &String| {
        let encoded: String = url::form_urlencoded::byte_serialize(campaign.as_bytes()).collect();
        format!("?campaign={encoded}")
    };
    let of_campaign = |campaign: &String| link(&format!("{here}{}", only(campaign)), campaign);
    let query = lift.campaign.as_ref().map(only).unwrap_or_default();
    let campaigns: Vec<String> = lift.campaigns.iter().map(of_campaign).collect();
    let campaigns = match campaigns.len() {
        0 => String::new(),
        _ => format!(" · Campaigns: {}, {}", link(&here, "all"), campaigns.join(", ")),
    };
    format!(
        "<p class=\"soft\">{}{campaigns} · As of {} · The same as {}, described in {}</p>\n",
        link("/", "Figures"),
        plot::escape(minute(lift.as_of)),
        link(&format!("/v1{here}{query}"), "JSON"),
        link("/openapi.json", "OpenAPI"),
    )
}
