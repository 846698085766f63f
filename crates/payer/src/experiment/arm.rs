//! What an experiment chooses between.

use kernel::MerchantId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One of the ways to do a step.
///
/// As text, which is how it is stored: `none`, an offset such as `-5`, `0` or `+3`, or `template:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Arm {
    /// No reminder.
    None,
    /// A reminder so many days after the due date; before it if below zero.
    Offset(i32),
    /// A reminder with this template.
    Template(String),
}

/// A text that is no arm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no arm: `none`, days from the due date such as `-5`, or `template:NAME`")]
pub struct ArmError(String);

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Offset(0) => f.write_str("0"),
            Self::Offset(days) => write!(f, "{days:+}"),
            Self::Template(name) => write!(f, "template:{name}"),
        }
    }
}

impl FromStr for Arm {
    type Err = ArmError;
    fn from_str(text: &str) -> Result<Self, ArmError> {
        if text == "none" {
            return Ok(Self::None);
        }
        match text.strip_prefix("template:") {
            Some("") => Err(ArmError(text.to_owned())),
            Some(name) => Ok(Self::Template(name.to_owned())),
            None => text.parse().map(Self::Offset).map_err(|_| ArmError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Arm {
    type Error = ArmError;
    fn try_from(text: String) -> Result<Self, ArmError> {
        text.parse()
    }
}

impl From<Arm> for String {
    fn from(arm: Arm) -> Self {
        arm.to_string()
    }
}

/// What was chosen, and how likely that was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// What was chosen.
    pub arm: Arm,
    /// The probability with which it was, above 0.
    pub propensity: f64,
}

impl Choice {
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
    fn arms_are_stored_as_short_texts() {
        let arms = [Arm::None, Arm::Offset(-5), Arm::Offset(0), Arm::Offset(3), Arm::Template("friendly".into())];
        let texts = ["none", "-5", "0", "+3", "template:friendly"];
        for (arm, text) in arms.iter().zip(texts) {
            assert_eq!(arm.to_string(), text);
            assert_eq!(text.parse(), Ok(arm.clone()));
            assert_eq!(serde_json::to_string(arm).unwrap(), format!("{text:?}"));
        }
        for bad in ["", "None", "template:", "3 days", "1.5"] {
            assert_eq!(bad.parse::<Arm>(), Err(ArmError(bad.to_owned())));
        }
    }

    #[test]
    fn arms_are_drawn_as_often_as_their_propensities_say() {
        const N: u32 = 20_000;
        let arms = [Arm::None, Arm::Offset(-7), Arm::Offset(-3), Arm::Offset(-1)];
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
        let arms = [Arm::None, Arm::Offset(-1), Arm::Offset(-3)];
        let draw = |propensities: &[f64]| Choice::draw(&arms, propensities, "step", &merchant(), "in_1").map(|c| c.arm);
        assert_eq!(draw(&[1e-300, 1e-300, 0.0]), Some(Arm::Offset(-1)));
        assert_eq!(draw(&[]), None);
    }
}
