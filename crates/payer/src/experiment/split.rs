//! A fixed A/B split.

use super::{Choice, ExperimentError};
use kernel::MerchantId;
use serde::{Deserialize, Serialize};

/// Arms that are drawn with fixed weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored<Arm>", bound(deserialize = "Arm: Deserialize<'de> + Clone"))]
pub struct Split<Arm> {
    name: String,
    arms: Vec<(Arm, u32)>,
}

/// A [`Split`] as it is stored, unchecked.
#[derive(Deserialize)]
struct Stored<Arm> {
    name: String,
    arms: Vec<(Arm, u32)>,
}

impl<Arm: Clone> TryFrom<Stored<Arm>> for Split<Arm> {
    type Error = ExperimentError;
    fn try_from(stored: Stored<Arm>) -> Result<Self, ExperimentError> {
        Self::try_new(stored.name, stored.arms)
    }
}

impl<Arm: Clone> Split<Arm> {
    /// Arms with their weights, such as 1 and 1 for halves. The name is the salt of its draws.
    pub fn try_new(name: impl Into<String>, arms: Vec<(Arm, u32)>) -> Result<Self, ExperimentError> {
        if arms.iter().all(|(_, weight)| *weight == 0) {
            return Err(ExperimentError::Weights);
        }
        Ok(Self { name: name.into(), arms })
    }

    /// The arm of an invoice, or of whatever else has an id of its own.
    pub fn choose(&self, merchant: &MerchantId, id: &str) -> Option<Choice<Arm>> {
        let total: f64 = self.arms.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let (arms, propensities): (Vec<Arm>, Vec<f64>) =
            self.arms.iter().map(|(arm, weight)| (arm.clone(), f64::from(*weight) / total)).unzip();
        Choice::draw(&arms, &propensities, &self.name, merchant, id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::merchant;
    use super::*;

    #[test]
    fn weights_become_propensities_and_frequencies() {
        const N: u32 = 20_000;
        let split = Split::try_new("tone", vec![("a", 3), ("b", 1)]).unwrap();
        let mut first = 0;
        for n in 0..N {
            let choice = split.choose(&merchant(), &format!("in_{n}")).unwrap();
            let is_first = choice.arm == "a";
            assert_eq!(choice.propensity, if is_first { 0.75 } else { 0.25 });
            first += u32::from(is_first);
        }
        assert!((f64::from(first) / f64::from(N) - 0.75).abs() < 0.0125, "{first} of {N}");
    }

    #[test]
    fn a_split_between_nothing_is_refused() {
        assert_eq!(Split::<&str>::try_new("x", vec![]), Err(ExperimentError::Weights));
        assert_eq!(Split::try_new("x", vec![("none", 0)]), Err(ExperimentError::Weights));
        assert!(serde_json::from_str::<Split<String>>(r#"{"name":"x","arms":[["none",0]]}"#).is_err());
        assert!(serde_json::from_str::<Split<String>>(r#"{"name":"x","arms":[["none",1],["-5",1]]}"#).is_ok());
    }
}
