//! Samples of one measurement, and measurements that take turns.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// The samples of one measurement, in milliseconds unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this fraction of the samples lies, interpolated between two samples.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(!sorted.is_empty(), "nothing was measured");
        let place = part * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    }

    /// A 95 % confidence interval of the median, by the ranks of a sign test, which assumes nothing about the
    /// distribution.
    pub fn bounds_of_median(&self) -> (f64, f64) {
        let count = self.0.len() as f64;
        let part = (0.98 / count.sqrt()).min(0.5);
        (self.quantile(0.5 - part), self.quantile(0.5 + part))
    }

    /// The difference of each sample to the other's sample of the same round.
    pub fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own - other).collect())
    }

    /// The difference to another measurement: the median over the rounds as text, its bounds and the difference of the
    /// first deciles as text, and everything as numbers. Other programs on the machine only ever add to a sample, so
    /// the deciles are the most stable.
    pub fn against(&self, other: &Self) -> (String, String, Value) {
        let more = self.minus(other);
        let ((low, high), best) = (more.bounds_of_median(), self.quantile(0.1) - other.quantile(0.1));
        let text = format!("{:+.1} ms on {:.1} ms", more.median(), other.median());
        let spread = format!("median {low:+.2} to {high:+.2}, p10 {best:+.2}");
        let numbers = json!({
            "own_ms": self.json(),
            "other_ms": other.json(),
            "median_of_differences_ms": rounded(more.median()),
            "bounds_ms": [rounded(low), rounded(high)],
            "difference_of_medians_ms": rounded(self.median() - other.median()),
            "difference_of_p10_ms": rounded(best),
            "ratio": rounded(self.median() / other.median()),
        });
        (text, spread, numbers)
    }

    pub fn json(&self) -> Value {
        json!({
            "samples": self.0.len(),
            "median": rounded(self.median()),
            "p10": rounded(self.quantile(0.1)),
            "p90": rounded(self.quantile(0.9)),
        })
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Three digits after the decimal point.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// How measurements take turns.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Rounds that are not counted.
    pub warm_up: usize,
    pub counted: usize,
    /// The pause between two runs, for background work that the first one leaves, such as an epilog.
    pub pause: Duration,
}

/// Runs each of these once in each round. The order changes from round to round, so that other load on the machine, and
/// what one run leaves behind for the next, affects all of them equally.
pub fn in_turns<const N: usize>(rounds: Rounds, runs: [&mut dyn FnMut() -> f64; N]) -> [Samples; N] {
    let mut samples = [const { Samples(Vec::new()) }; N];
    for round in 0..rounds.warm_up + rounds.counted {
        for turn in 0..N {
            let index = (round + turn) % N;
            let value = runs[index]();
            if round >= rounds.warm_up {
                samples[index].push(value);
            }
            thread::sleep(rounds.pause);
        }
    }
    samples
}
