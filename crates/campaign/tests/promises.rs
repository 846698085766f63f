//! What planning promises, whatever the campaign, the calendar, the zone, the payments and the outages.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

#[path = "promises/arbitrary.rs"]
mod arbitrary;
#[path = "promises/simulation.rs"]
mod simulation;
#[path = "promises/world.rs"]
mod world;

use arbitrary::{Event, script};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;
use world::World;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1200))]

    /// Never early, never outside contact hours or on a closed day; gap and cap hold; one reminder at a moment for each
    /// currency and channel, also after an outage; choices move, reword and leave out only what they may, and only so far;
    /// at most one decision for each step, and one for each when the sequence
    /// has ended; nothing after payment; never woken for nothing, never too late; and it comes to rest.
    #[test]
    fn a_customers_cases_keep_every_promise(script in script()) {
        World::new(&script).run();
    }

    /// Whoever slept through everything says one thing for each currency on the day it wakes, all at the same moment.
    #[test]
    fn after_an_outage_one_reminder_speaks_for_all(script in script(), days in 30..200_i64) {
        let mut script = script;
        script.outages = vec![(0, days * 1440)];
        script.events.retain(|(minute, event)| *minute < days * 1440 || matches!(event, Event::Pay(_)));
        script.campaigns.iter_mut().for_each(|c| c.contact.min_gap_days = c.contact.min_gap_days.max(1));
        let mut world = World::new(&script);
        world.run();
        if let Some((first, moment, _)) = world.sent.first() {
            let same_day: Vec<_> = world.sent.iter().filter(|(on, ..)| on == first).collect();
            prop_assert!(same_day.iter().all(|(_, at, _)| at == moment), "{:?}", same_day);
            let currencies: BTreeSet<_> = same_day.iter().map(|(.., currency)| currency).collect();
            prop_assert_eq!(currencies.len(), same_day.len());
        }
    }

    /// The virtual clock of the back-test keeps the same promises, gives each step of a closed or ended case exactly one
    /// decision, and says the same twice.
    #[test]
    fn a_simulated_customer_keeps_them_too(script in script()) {
        let story = simulation::live(&script);
        prop_assert_eq!(&story, &simulation::live(&script));
    }
}

/// The properties would hold for a planner that never sends: this one sees that the arbitrary lives have something to say.
#[test]
fn arbitrary_lives_are_eventful() {
    let mut runner = TestRunner::deterministic();
    let (mut sent, mut merged, mut left_out, mut chosen) = (0, 0, 0, 0);
    for _ in 0..300 {
        let script = script().new_tree(&mut runner).unwrap().current();
        let mut world = World::new(&script);
        world.run();
        sent += world.sent.len();
        merged += world.merged;
        left_out += world.left_out;
        chosen += world.chosen;
    }
    assert!(sent > 200 && merged > 30, "{sent} reminders, {merged} of them for several steps");
    assert!(left_out > 20 && chosen > 20, "{left_out} steps left out by choice, {chosen} done otherwise");
}
