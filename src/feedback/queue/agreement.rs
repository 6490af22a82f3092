//! Chance-corrected agreement of annotators: Cohen's kappa of two (Cohen, 1960) and Krippendorff's
//! alpha of any number with gaps, for nominal values (Krippendorff, *Content Analysis*, 2004,
//! chapter 11). Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// Figures of agreement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct AgreementFigures {
    /// Units judged by at least two annotators.
    pub units: usize,
    /// Share of equal judgments among all pairs on the same unit; absent without pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<f64>,
    /// Cohen's kappa over all pairs of judgments; absent if chance alone makes all agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kappa: Option<f64>,
    /// Krippendorff's alpha; absent if all judgments are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

/// Contingency table of two annotators' judgments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgreementTable<V: Ord>(BTreeMap<(V, V), usize>);

impl<V: Ord + Copy> AgreementTable<V> {
    /// Counts one unit.
    pub fn add(&mut self, first: V, second: V) {
        *self.0.entry((first, second)).or_default() += 1;
    }

    /// Number of units.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Share of units on which the two agree; `None` without units.
    pub fn observed(&self) -> Option<f64> {
        let same: usize = self
            .0
            .iter()
            .filter(|((a, b), _)| a == b)
            .map(|(_, n)| n)
            .sum();
        (self.total() > 0).then(|| same as f64 / self.total() as f64)
    }

    /// Cohen's kappa, `(p_o - p_e) / (1 - p_e)`; `None` if chance alone makes all agree.
    pub fn kappa(&self) -> Option<f64> {
        let total = self.total() as f64;
        let (mut rows, mut columns): (BTreeMap<V, f64>, BTreeMap<V, f64>) = Default::default();
        for (&(a, b), &n) in &self.0 {
            *rows.entry(a).or_default() += n as f64 / total;
            *columns.entry(b).or_default() += n as f64 / total;
        }
        let chance: f64 = rows
            .iter()
            .map(|(value, share)| share * columns.get(value).copied().unwrap_or_default())
            .sum();
        (chance < 1.0).then_some((self.observed()? - chance) / (1.0 - chance))
    }
}

/// Krippendorff's alpha of units, each with its judgments. Units with fewer than two are ignored.
pub fn alpha<V: Ord + Copy>(units: impl IntoIterator<Item = impl AsRef<[V]>>) -> Option<f64> {
    let (mut values, mut same): (BTreeMap<V, f64>, f64) = Default::default();
    for unit in units {
        let unit = unit.as_ref();
        if unit.len() < 2 {
            continue;
        }
        let mut given: BTreeMap<V, f64> = BTreeMap::new();
        unit.iter()
            .for_each(|&value| *given.entry(value).or_default() += 1.0);
        // The diagonal of the coincidence matrix.
        same += given.values().map(|n| n * (n - 1.0)).sum::<f64>() / (unit.len() - 1) as f64;
        given
            .into_iter()
            .for_each(|(value, n)| *values.entry(value).or_default() += n);
    }
    let total: f64 = values.values().sum();
    let expected = total * total - values.values().map(|n| n * n).sum::<f64>();
    (expected > 0.0).then(|| 1.0 - (total - 1.0) * (total - same) / expected)
}

/// Computes all figures of units, each with its judgments in a fixed order of annotators. Units
/// with fewer than two are ignored.
pub fn figures<V: Ord + Copy>(units: &[Vec<V>]) -> AgreementFigures {
    let mut table = AgreementTable(BTreeMap::new());
    for unit in units {
        for (i, &first) in unit.iter().enumerate() {
            unit[i + 1..]
                .iter()
                .for_each(|&second| table.add(first, second));
        }
    }
    let judged = units.iter().filter(|unit| unit.len() > 1).count();
    AgreementFigures {
        units: judged,
        observed: table.observed(),
        kappa: table.kappa(),
        alpha: alpha(units),
    }
}

/// 95 % confidence interval of a share (Wilson, 1927); `None` for an empty whole.
pub fn wilson(part: usize, whole: usize) -> Option<[f64; 2]> {
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let (middle, spread) = (
        p + Z * Z / (2.0 * n),
        Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt(),
    );
    let scale = 1.0 + Z * Z / n;
    (whole > 0).then(|| {
        [
            ((middle - spread) / scale).max(0.0),
            ((middle + spread) / scale).min(1.0),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: Option<f64>, expected: f64) -> bool {
        got.is_some_and(|got| (got - expected).abs() < 5e-4)
    }

    #[test]
    fn kappa_of_known_tables_matches() {
        // 20 and 15 agree, 5 and 10 do not: p_o = 0.7, p_e = 0.5.
        let mut table = AgreementTable(BTreeMap::new());
        for (a, b, n) in [
            (true, true, 20),
            (true, false, 5),
            (false, true, 10),
            (false, false, 15),
        ] {
            (0..n).for_each(|_| table.add(a, b));
        }
        assert!(close(table.observed(), 0.7) && close(table.kappa(), 0.4));
        let mut all_alike = AgreementTable(BTreeMap::new());
        all_alike.add(1, 1);
        assert_eq!((all_alike.observed(), all_alike.kappa()), (Some(1.0), None));
        assert_eq!(
            (
                AgreementTable::<u8>::default().observed(),
                AgreementTable::<u8>::default().kappa()
            ),
            (None, None)
        );
    }

    /// Worked example with four observers and gaps of Krippendorff, "Computing Krippendorff's
    /// Alpha-Reliability" (2011).
    #[test]
    fn alpha_of_published_example_matches() {
        let observers = [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ];
        let units: Vec<Vec<u8>> = (0..12)
            .map(|unit| {
                observers
                    .iter()
                    .map(|o| o[unit])
                    .filter(|&value| value > 0)
                    .collect()
            })
            .collect();
        assert!(close(alpha(&units), 0.743));
        assert_eq!(alpha([[1, 1], [1, 1]]), None);
        assert_eq!(alpha(Vec::<Vec<u8>>::new()), None);
        assert!(alpha([[0, 1], [0, 1], [0, 1]]).unwrap() < 0.0);
    }

    #[test]
    fn figures_ignore_units_with_one_judgment() {
        let units = [vec![1, 1], vec![2, 1], vec![1], vec![]];
        let figures = figures(&units);
        assert_eq!((figures.units, figures.observed), (2, Some(0.5)));
    }

    #[test]
    fn wilson_interval_contains_the_share() {
        let [low, high] = wilson(8, 10).unwrap();
        assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4);
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(0, 5).unwrap()[0], 0.0);
        assert_eq!(wilson(5, 5).unwrap()[1], 1.0);
    }
}
