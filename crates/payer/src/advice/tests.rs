use super::*;
use crate::bins::{BINS, bin};
use proptest::prelude::*;

/// Shares of payments on these days.
fn paying(shares: &[(i32, f32)]) -> Distribution {
    let mut counts = [0.0; BINS];
    shares.iter().for_each(|(day, share)| counts[bin(*day)] += share);
    Distribution::of(&counts)
}

/// Three in ten are late, one of them by more than a week.
fn portfolio() -> Distribution {
    paying(&[(-3, 0.3), (0, 0.4), (2, 0.2), (20, 0.1)])
}

const STEP: Step = Step { offset: -5, earlier: 2, later: 3, may_skip: true, is_followed: false };

fn advice_for(prediction: &Distribution, step: Step, today: i32) -> Advice {
    let portfolio = portfolio();
    advise(&Known { label: Label::Mixed, prediction, portfolio: Some(&portfolio) }, &step, today, None)
}

fn timing(shares: &[(i32, f32)], step: Step, today: i32) -> Timing {
    advice_for(&paying(shares), step, today).timing
}

/// As the portfolio, a bit more often late.
const COMMON: [(i32, f32); 4] = [(-3, 0.28), (0, 0.4), (2, 0.22), (20, 0.1)];
const USUALLY_LATE: [(i32, f32); 2] = [(0, 0.4), (2, 0.6)];
const PROMPT: [(i32, f32); 2] = [(0, 0.95), (2, 0.05)];
const CHRONIC: [(i32, f32); 2] = [(0, 0.1), (30, 0.9)];

#[test]
fn who_is_like_others_is_reminded_on_the_fixed_day() {
    let advice = advice_for(&paying(&COMMON), STEP, -9);
    assert_eq!(advice.timing, Timing::Keep);
    assert_eq!(advice.because.to_string(), "late with a chance of 32 % if still unpaid then, at least 24 %");
}

#[test]
fn who_is_usually_late_is_reminded_earlier() {
    assert_eq!(timing(&USUALLY_LATE, STEP, -9), Timing::Move(-2));
    assert_eq!(timing(&USUALLY_LATE, STEP, -6), Timing::Move(-1), "not in the past");
    assert_eq!(timing(&USUALLY_LATE, STEP, -5), Timing::Keep);
    assert_eq!(timing(&USUALLY_LATE, STEP, -2), Timing::Keep, "a late step goes out now");
    assert_eq!(timing(&USUALLY_LATE, Step { earlier: 0, ..STEP }, -9), Timing::Keep);
}

#[test]
fn who_pays_by_itself_is_left_alone_or_reminded_late() {
    assert_eq!(timing(&PROMPT, STEP, -9), Timing::Skip);
    assert!(matches!(advice_for(&paying(&PROMPT), STEP, -9).because, Reason::PaysByItself { .. }));
    let must = Step { may_skip: false, ..STEP };
    assert_eq!(timing(&PROMPT, must, -9), Timing::Move(3));
    assert_eq!(timing(&PROMPT, Step { later: 9, ..must }, -9), Timing::Move(4), "but before the due date");
    assert_eq!(timing(&PROMPT, Step { later: 0, ..must }, -9), Timing::Keep);
}

#[test]
fn still_unpaid_may_make_a_reminder_worth_it() {
    // One in ten is late; of what is unpaid five days before the due date, one in four.
    let early = [(-7, 0.6), (0, 0.3), (2, 0.1)];
    assert_eq!(timing(&early, STEP, -9), Timing::Keep);
    assert_eq!(timing(&early, Step { offset: -8, earlier: 0, later: 0, ..STEP }, -9), Timing::Skip);
}

#[test]
fn who_is_weeks_late_is_not_reminded_before_the_due_date_if_the_campaign_lets_it() {
    let advice = advice_for(&paying(&CHRONIC), STEP, -9);
    assert_eq!(advice.timing, Timing::Skip);
    assert!(matches!(advice.because, Reason::OutOfReach { .. }));
    let but_seldom = [(0, 0.71), (30, 0.29)];
    assert_eq!(timing(&but_seldom, STEP, -9), Timing::Keep, "three in ten is the least");
    assert_eq!(timing(&CHRONIC, Step { may_skip: false, ..STEP }, -9), Timing::Keep);
    // Where half are weeks late, half the time is what others do.
    let (half, prediction) = (paying(&[(0, 0.5), (30, 0.5)]), paying(&[(0, 0.4), (30, 0.6)]));
    let known = Known { label: Label::Mixed, prediction: &prediction, portfolio: Some(&half) };
    assert_eq!(advise(&known, &STEP, -9, None).timing, Timing::Keep);
    // Overdue, everybody is alike.
    assert_eq!(timing(&CHRONIC, Step { offset: 5, ..STEP }, 5), timing(&PROMPT, Step { offset: 5, ..STEP }, 5));
}

#[test]
fn a_second_reminder_is_for_the_usually_late() {
    let first = Step { is_followed: true, ..STEP };
    assert_eq!(timing(&COMMON, first, -9), Timing::Skip);
    assert_eq!(timing(&COMMON, Step { may_skip: false, ..first }, -9), Timing::Keep);
    assert_eq!(timing(&USUALLY_LATE, first, -9), Timing::Move(-2));
}

#[test]
fn a_chase_waits_while_most_pay_by_themselves() {
    // Of ten unpaid the day after, six pay within three days; of the four left hardly any.
    let portfolio = paying(&[(0, 0.5), (1, 0.1), (2, 0.1), (3, 0.1), (20, 0.2)]);
    let prediction = paying(&USUALLY_LATE);
    let known = Known { label: Label::Mixed, prediction: &prediction, portfolio: Some(&portfolio) };
    let step = Step { offset: 1, earlier: 0, later: 5, may_skip: true, is_followed: false };
    assert_eq!(advise(&known, &step, 1, None).timing, Timing::Skip);
    let must = Step { may_skip: false, ..step };
    // From the third day on, one in three pays within three days.
    assert_eq!(advise(&known, &must, 1, None).timing, Timing::Move(2));
    assert_eq!(advise(&known, &Step { later: 1, ..must }, 1, None).timing, Timing::Move(1), "as long as it may");
    let later = advise(&known, &Step { offset: 5, ..step }, 5, None);
    assert_eq!(later.timing, Timing::Keep);
    assert!(matches!(later.because, Reason::Overdue { .. }));
}

#[test]
fn an_empty_budget_skips_before_the_due_date_only() {
    let (portfolio, prediction) = (portfolio(), paying(&USUALLY_LATE));
    let known = Known { label: Label::UsuallyLate, prediction: &prediction, portfolio: Some(&portfolio) };
    let timing = |step, today| advise(&known, &step, today, Some(0)).timing;
    assert_eq!(timing(STEP, -9), Timing::Skip);
    assert_eq!(timing(Step { may_skip: false, ..STEP }, -9), Timing::Keep);
    assert_eq!(timing(Step { offset: 3, ..STEP }, 3), Timing::Keep);
    assert_eq!(advise(&known, &STEP, -9, Some(1)).timing, Timing::Move(-2));
}

#[test]
fn what_is_logged_is_read() {
    for advice in [advice_for(&paying(&PROMPT), STEP, -9), advice_for(&paying(&USUALLY_LATE), STEP, -9)] {
        let json = serde_json::to_string(&advice).unwrap();
        assert_eq!(serde_json::from_str::<Advice>(&json).unwrap(), advice, "{json}");
    }
    let json = serde_json::to_value(advice_for(&paying(&USUALLY_LATE), STEP, -9)).unwrap();
    assert_eq!((json["timing"].as_str(), json["days"].as_i64()), (Some("move"), Some(-2)));
    assert_eq!(json["because"]["rule"], "usually_late");
}

fn distributions() -> impl Strategy<Value = Distribution> {
    // Sparse ones, too: real ones are.
    let share = prop_oneof![Just(0.0_f32), 0.0_f32..10.0];
    prop::collection::vec(share, BINS).prop_map(|counts| Distribution::of(&counts.try_into().unwrap()))
}

fn steps() -> impl Strategy<Value = Step> {
    (-30..30_i32, 0..12_u16, 0..12_u16, any::<bool>(), any::<bool>()).prop_map(
        |(offset, earlier, later, may_skip, is_followed)| Step { offset, earlier, later, may_skip, is_followed },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn advice_stays_within_what_the_campaign_allows(
        prediction in distributions(), portfolio in distributions(), step in steps(), today in -40..40_i32,
        budget in prop::option::of(0..3_u32),
    ) {
        let known = Known { label: Label::Mixed, prediction: &prediction, portfolio: Some(&portfolio) };
        let advice = advise(&known, &step, today, budget);
        match advice.timing {
            Timing::Keep => {}
            Timing::Skip => prop_assert!(step.may_skip),
            Timing::Move(days) => {
                let day = step.offset + days;
                prop_assert!(days != 0 && -i32::from(step.earlier) <= days && days <= i32::from(step.later), "{:?}", advice);
                prop_assert!(day >= today, "in the past");
                prop_assert_eq!(day.signum(), step.offset.signum(), "across the due date");
            }
        }
    }

    #[test]
    fn without_data_it_is_the_fixed_schedule(prediction in distributions(), portfolio in distributions(), step in steps(), today in -40..40_i32) {
        let known = Known { label: Label::New, prediction: &prediction, portfolio: Some(&portfolio) };
        prop_assert_eq!(advise(&known, &step, today, Some(0)).timing, Timing::Keep);
        let known = Known { label: Label::Mixed, prediction: &prediction, portfolio: None };
        prop_assert_eq!(advise(&known, &step, today, Some(0)).timing, Timing::Keep);
    }

    #[test]
    fn overdue_nobody_is_judged_by_its_own_past(
        a in distributions(), b in distributions(), portfolio in distributions(), step in steps(), today in -40..40_i32,
    ) {
        let of = |prediction| advise(&Known { label: Label::Mixed, prediction, portfolio: Some(&portfolio) }, &step, today, None);
        if step.offset.max(today) > 0 {
            prop_assert_eq!(of(&a), of(&b));
        }
    }

    #[test]
    fn what_is_advised_holds_until_its_day(prediction in distributions(), portfolio in distributions(), step in steps(), wait in 0..40_i32) {
        // Asked again at any time up to the advised day, and to the campaign's, with nothing new known, the advice is the
        // same.
        let known = Known { label: Label::Mixed, prediction: &prediction, portfolio: Some(&portfolio) };
        let planned = advise(&known, &step, -50, None);
        let day = match planned.timing {
            Timing::Move(days) => step.offset + days.min(0),
            Timing::Keep | Timing::Skip => step.offset,
        };
        let again = advise(&known, &step, day - wait, None);
        prop_assert_eq!(again, planned);
    }
}
