//! Random numbers that are read, not drawn: the one at a position of a stream is always the same.

/// SplitMix64 (Steele, Lea and Flood, 2014), whose n-th number can be had without those before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Stream {
    /// The streams of one seed are independent of each other.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed).wrapping_add(stream.wrapping_mul(STEP))))
    }

    /// A number from 0 to 1, without 1.
    pub(crate) fn at(self, position: u64) -> f64 {
        const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
        (mix(self.0.wrapping_add(position.wrapping_mul(STEP))) >> 11) as f64 * UNIT
    }

    /// All numbers, from the first.
    pub(crate) fn draws(self) -> Draws {
        Draws { stream: self, next: 0 }
    }
}

/// The numbers of a stream, one after the other.
#[derive(Debug)]
pub(crate) struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    /// A number from 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.next += 1;
        self.stream.at(self.next)
    }

    /// A whole number from 0 to `bound`, without it.
    pub(crate) fn below(&mut self, bound: i32) -> i32 {
        (self.unit() * f64::from(bound)) as i32
    }

    /// Gamma distributed with mean 1: for a whole shape, a mean of that many exponential numbers.
    pub(crate) fn factor(&mut self, shape: u32) -> f64 {
        let product: f64 = (0..shape).map(|_| 1.0 - self.unit()).product();
        -product.ln() / f64::from(shape)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The published generator started at 0: its first three outputs.
        let published = [0xe220_a839_7b1d_cdaf_u64, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        for (n, output) in (1..).zip(published) {
            assert_eq!(Stream(0).at(n), (output >> 11) as f64 / (1_u64 << 53) as f64);
        }
    }

    #[test]
    fn factors_have_mean_1_and_the_variance_of_their_shape() {
        for shape in [3, 6] {
            let mut draws = Stream::new(1, 0).draws();
            let factors: Vec<f64> = (0..20_000).map(|_| draws.factor(shape)).collect();
            let mean = factors.iter().sum::<f64>() / 20_000.0;
            let variance = factors.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / 20_000.0;
            // Five standard errors: .004 of the mean, about .006 of the variance.
            assert!((mean - 1.0).abs() < 0.02, "mean {mean} of shape {shape}");
            assert!((variance - 1.0 / f64::from(shape)).abs() < 0.03, "variance {variance} of shape {shape}");
        }
    }
}
