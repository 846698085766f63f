//! The report of a simulation, as text and as a page.

use super::{CHASES, Score, Setup, SimulationReport};
use crate::world::{Population, Response};
use plot::{Bars, Figure, Layout};
use std::fmt;

pub(super) fn world(setup: &Setup) -> String {
    let population = match setup.population {
        Population::Consumers => "A, consumer-like",
        Population::Businesses => "B, like small businesses",
    };
    let response = match setup.response {
        Response::Weak => "weak",
        Response::Medium => "medium",
    };
    format!("world {population}, {response} response")
}

pub(super) fn assumptions(setup: &Setup) -> Vec<String> {
    let response = match setup.response {
        Response::Weak => {
            "weak: one reminder the day before the due date brings 2 to 3 points, as a meta-analysis of nudges says"
        }
        Response::Medium => {
            "medium: one reminder the day before the due date brings 5 to 7 points, as trials with text messages say"
        }
    };
    [
        "The payers are simulated. Their shares on time, hazards and differences are set to look like ledgers; nobody was observed.".to_owned(),
        format!("How payers respond is assumed, not measured, and {response}."),
        "A reminder adds to the daily chance of payment, halves every 2.7 days, and is the weaker the more came before it.".to_owned(),
        "Chronically late and strategic payers respond least. Part of what advice gains follows from that.".to_owned(),
        "Every message makes .2 % of its readers opt out. Nothing is sent at weekends.".to_owned(),
        format!("After the due date every policy sends the same reminders, at {}, if not said otherwise.", super::list(&CHASES)),
        "Payments by reminder and by habit both teach the estimator; payments are known on the next day.".to_owned(),
    ]
    .into()
}

const COLUMNS: [&str; 8] =
    ["policy", "on time", "lift", "messages per invoice", "per rescued", "needless", "days late", "opted out"];

fn cells(name: &str, score: &Score) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.1} %", 100.0 * score.on_time),
        format!("{:+.1} pp", score.lift_pp),
        format!("{:.2}", score.messages),
        score.per_rescued.map_or_else(|| "-".to_owned(), |n| format!("{n:.1}")),
        if score.messages > 0.0 { format!("{:.0} %", 100.0 * score.needless) } else { "-".to_owned() },
        format!("{:.1}", score.days_late),
        format!("{:.0} of 1,000", score.opt_outs),
    ]
}

impl SimulationReport {
    /// The three policies at an equal number of messages, with their names.
    fn equal(&self) -> [(String, Score); 3] {
        let best = self.equal.best_offset;
        [
            ("dunlin's advice".to_owned(), self.equal.adaptive),
            (format!("fixed at {best}, for a share of the customers"), self.equal.fixed),
            (format!("fixed at {best}, for a share of the invoices"), self.equal.random),
        ]
    }

    /// What the comparison comes to, in one sentence.
    pub fn finding(&self) -> String {
        let (adaptive, best) = (self.equal.adaptive, self.equal.fixed.lift_pp.max(self.equal.random.lift_pp));
        let offset = self.equal.best_offset;
        let more = adaptive.lift_pp - best;
        let word = if more >= 0.0 { "more" } else { "less" };
        format!(
            "In simulated {}, {:.2} reminders per invoice before the due date bring {:.1} points as advised: {:.1} {word} than at the best \
             fixed day ({offset}).",
            self.world,
            adaptive.messages,
            adaptive.lift_pp,
            more.abs(),
        )
    }

    /// The report as a page.
    pub fn page(&self) -> String {
        let rows =
            |rows: Vec<(String, Score)>| rows.into_iter().map(|(name, score)| cells(&name, &score)).collect::<Vec<_>>();
        let all = self.policies.iter().map(|p| (p.policy.clone(), p.score)).collect();
        let assumptions: String = self.assumptions.iter().map(|a| format!("<li>{}</li>\n", plot::escape(a))).collect();
        let names = ["as advised", "share of customers", "share of invoices"].map(str::to_owned);
        let values = self.equal().map(|(_, score)| score.lift_pp).to_vec();
        let finding = self.finding();
        let equal = Figure {
            title: "Lift at an equal number of messages",
            finding: &finding,
            x: "policy",
            y: "lift, percentage points",
        };
        let equal = equal.bars(&names, &[Bars { name: "lift".to_owned(), values }], Layout::Grouped);
        let single = |p: &&super::Scored| p.policy.strip_prefix("all at ").is_some_and(|at| at.parse::<i32>().is_ok());
        let offsets: Vec<_> = self.policies.iter().filter(single).collect();
        let labels: Vec<String> = offsets.iter().map(|p| p.policy.replace("all at ", "")).collect();
        let price = offsets.iter().map(|p| p.score.per_rescued.unwrap_or_default()).collect();
        let prices = Figure {
            title: "Price of a single fixed day",
            finding: "How many reminders before the due date it takes for one invoice to be paid on time that would not have been.",
            x: "days from due",
            y: "reminders per rescued invoice",
        };
        let prices = prices.bars(&labels, &[Bars { name: "reminders".to_owned(), values: price }], Layout::Grouped);
        let body = [
            plot::note("The payers on this page are simulated, and how they respond to reminders is assumed."),
            plot::grid(
                &[
                    plot::wide_card(
                        "At an equal number of messages",
                        &format!("{equal}{}", plot::table(&COLUMNS, rows(self.equal().into()))),
                    ),
                    plot::card("Fixed days", &prices),
                    plot::card("What is assumed", &format!("<ul>\n{assumptions}</ul>\n")),
                    plot::wide_card("All policies", &plot::table(&COLUMNS, rows(all))),
                ]
                .concat(),
            ),
        ];
        plot::page(&format!("Reminders in simulated {}", self.world), &body.concat())
    }
}

impl fmt::Display for SimulationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Simulated payers: {}.", self.world)?;
        writeln!(f, "{} worlds of {} customers, {} invoices.\n", self.worlds, self.customers, self.invoices)?;
        let line = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            for (n, cell) in cells.iter().enumerate() {
                if n == 0 { write!(f, "{cell:<50}")? } else { write!(f, "{cell:>14}")? }
            }
            writeln!(f)
        };
        let short = ["policy", "on time", "lift", "per invoice", "per rescued", "needless", "days late", "opted out"];
        line(f, &short.map(str::to_owned))?;
        for scored in &self.policies {
            line(f, &cells(&scored.policy, &scored.score))?;
        }
        writeln!(f, "\nAt an equal number of messages before the due date:")?;
        for (name, score) in self.equal() {
            line(f, &cells(&name, &score))?;
        }
        writeln!(f, "\n{}\n\nWhat is assumed:", self.finding())?;
        self.assumptions.iter().try_for_each(|assumption| writeln!(f, "- {assumption}"))
    }
}
