//! What an experiment chooses.

use kernel::MerchantId;
use serde::{Deserialize, Serialize};

/// One of the ways to do something, and how likely it was to be chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice<Arm> {
    /// What was chosen.
    pub arm: Arm,
    /// The probability with which it was, above 0.
    pub propensity: f64,
}

impl<Arm: Clone> Choice<Arm> {
    /// Draws one of the arms with these probabilities, which sum to 1, for an id. `None` if there are no arms.
    ///
    /// `salt` is the experiment, with the step if it has several: draws under one salt are the same draw.
    pub fn draw(arms: &[Arm], propensities: &[f64], salt: &str, merchant: &MerchantId, id: &str) -> Option<Self> {
        let uniform = super::uniform(salt, merchant, id);
        let mut reached = 0.0;
        let mut last = None;
        for (arm, propensity) in arms.iter().zip(propensities).filter(|(_, p)| **p > 0.0) {
            reached += propensity;
            last = Some((arm, *propensity));
            if uniform < reached {
                break;
            }
        }
        // The sum of all may round to a little below 1; then the last arm is meant.
        last.map(|(arm, propensity)| Self { arm: arm.clone(), propensity })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::merchant;
    use super::*;

    #[test]
    fn arms_are_drawn_as_often_as_their_propensities_say() {
        const N: u32 = 20_000;
        let arms = ["none", "-7", "-3", "-1"];
        let propensities = [0.05, 0.6, 0.0, 0.35];
        let mut drawn = [0_u32; 4];
        for n in 0..N {
            let choice = Choice::draw(&arms, &propensities, "step", &merchant(), &format!("in_{n}")).unwrap();
            let place = arms.iter().position(|arm| *arm == choice.arm).unwrap();
            assert_eq!(choice.propensity, propensities[place]);
            drawn[place] += 1;
        }
        for (n, p) in drawn.into_iter().zip(propensities) {
            let (n, of) = (f64::from(n), f64::from(N));
            assert!((n - p * of).abs() <= 4.0 * (of * p * (1.0 - p)).sqrt(), "{drawn:?}");
        }
    }

    #[test]
    fn a_draw_above_a_rounded_sum_is_the_last_possible_arm() {
        let arms = ["none", "-1", "-3"];
        let draw = |propensities: &[f64]| Choice::draw(&arms, propensities, "step", &merchant(), "in_1").map(|c| c.arm);
        assert_eq!(draw(&[1e-300, 1e-300, 0.0]), Some("-1"));
        assert_eq!(draw(&[]), None);
    }
}
