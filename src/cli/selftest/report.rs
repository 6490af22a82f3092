//! Results of a model's checks, and how they are printed.

use std::fmt::Display;

use serde::Serialize;

/// Result of one check.
#[derive(Debug, Serialize)]
pub(super) struct CheckResult {
    pub(super) name: String,
    pub(super) passed: bool,
    /// Observation with its numbers.
    pub(super) detail: String,
    /// Largest difference, relative to the largest number; `None` if nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) difference: Option<f64>,
}

impl CheckResult {
    /// Returns a check that passed, or that failed with an error.
    pub(super) fn of(name: impl Into<String>, outcome: Result<String, String>) -> Self {
        let passed = outcome.is_ok();
        Self {
            name: name.into(),
            passed,
            detail: outcome.unwrap_or_else(|error| error),
            difference: None,
        }
    }

    /// Returns a check on a difference that may be `most`.
    pub(super) fn within(
        name: impl Into<String>,
        difference: Result<f64, String>,
        most: f64,
    ) -> Self {
        match difference {
            Ok(difference) => Self {
                name: name.into(),
                passed: difference <= most,
                detail: format!("differs by {difference:.1e} (at most {most:.0e})"),
                difference: Some(difference),
            },
            Err(error) => Self::of(name, Err(error)),
        }
    }

    /// Returns a check on the largest of named differences, which may be `most`.
    pub(super) fn largest(
        name: impl Into<String>,
        differences: Result<Vec<(String, f64)>, String>,
        most: f64,
    ) -> Self {
        let differences = match differences {
            Ok(differences) => differences,
            Err(error) => return Self::of(name, Err(error)),
        };
        let largest = differences.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((of, difference)) = largest else {
            return Self::of(name, Err("nothing was compared".to_owned()));
        };
        let mut result = Self::within(name, Ok(*difference), most);
        result.detail += &format!(", most of {} {of}", differences.len());
        result
    }
}

/// Speed of decoding with a number of sequences in every step.
#[derive(Debug, Serialize)]
pub(super) struct DecodeSpeed {
    /// Kind of the scorer, or `off`.
    pub(super) scorer: &'static str,
    /// Sequences of a step.
    pub(super) batch: usize,
    pub(super) tokens_per_second: f64,
    /// Bytes of the policy's weights that its steps read in a second, each weight once a step.
    pub(super) weight_bytes_per_second: f64,
}

/// Speed of a model on its device.
#[derive(Debug, Serialize)]
pub(super) struct SpeedReport {
    /// Bytes that the device's memory gives in a second, measured in the same run.
    pub(super) memory_bytes_per_second: f64,
    pub(super) decoding: Vec<DecodeSpeed>,
}

/// Results of one model.
#[derive(Debug, Serialize)]
pub(super) struct SelftestReport {
    pub(super) model: String,
    pub(super) device: String,
    /// Largest relative difference that passes in the checks of the model against itself.
    pub(super) tolerance: f64,
    pub(super) passed: bool,
    pub(super) checks: Vec<CheckResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) speed: Option<SpeedReport>,
}

impl SelftestReport {
    /// Returns the number of checks that failed.
    pub(super) fn failed(&self) -> usize {
        self.checks.iter().filter(|check| !check.passed).count()
    }

    /// Returns the report in lines; `what` is said of the model.
    pub(super) fn readable(&self, what: &str) -> String {
        let mut out = String::new();
        let mut line = |label: &str, text: &dyn Display| {
            out.push_str(&format!("{label:<8}{text}\n"));
        };
        line("model", &format_args!("{}: {what}", self.model));
        line("device", &self.device);
        let names = self.checks.iter().map(|check| check.name.len());
        let width = names.max().unwrap_or(0);
        for CheckResult {
            name,
            passed,
            detail,
            ..
        } in &self.checks
        {
            let label = if *passed { "ok" } else { "FAILED" };
            line(label, &format_args!("{name:width$}  {detail}"));
        }
        if let Some(speed) = &self.speed {
            let roof = speed.memory_bytes_per_second;
            line("memory", &format_args!("{:.1} GB/s", roof / 1e9));
            for decoding in &speed.decoding {
                let read = decoding.weight_bytes_per_second;
                line(
                    "speed",
                    &format_args!(
                        "scorer {}, {} at once: {:.0} tokens/s; {:.2} GB/s of weights, {:.1} % of \
                         the memory's",
                        decoding.scorer,
                        decoding.batch,
                        decoding.tokens_per_second,
                        read / 1e9,
                        100.0 * read / roof
                    ),
                );
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_decides() {
        let differences = |last: f64| {
            Ok(vec![
                ("layer 0".to_owned(), 1e-7),
                ("layer 1".to_owned(), last),
            ])
        };
        let passed = CheckResult::largest("hidden states", differences(1e-5), 1e-4);
        assert!(passed.passed);
        assert_eq!(passed.difference, Some(1e-5));
        assert!(passed.detail.ends_with("most of 2 layer 1"), "{passed:?}");
        let nan = f64::INFINITY;
        assert!(!CheckResult::largest("hidden states", differences(nan), 1e-4).passed);
        assert!(!CheckResult::largest("hidden states", Ok(Vec::new()), 1e-4).passed);
    }

    #[test]
    fn the_report_has_a_line_a_check_and_a_speed() {
        let report = SelftestReport {
            model: "m".to_owned(),
            device: "cpu".to_owned(),
            tolerance: 1e-3,
            passed: false,
            checks: vec![
                CheckResult::of("logits", Ok("all finite".to_owned())),
                CheckResult::within("batch", Ok(0.5), 1e-3),
            ],
            speed: Some(SpeedReport {
                memory_bytes_per_second: 4e9,
                decoding: vec![DecodeSpeed {
                    scorer: "off",
                    batch: 16,
                    tokens_per_second: 1234.4,
                    weight_bytes_per_second: 1e9,
                }],
            }),
        };
        assert_eq!(report.failed(), 1);
        assert_eq!(
            report.readable("small"),
            "model   m: small\ndevice  cpu\nok      logits  all finite\n\
             FAILED  batch   differs by 5.0e-1 (at most 1e-3)\nmemory  4.0 GB/s\n\
             speed   scorer off, 16 at once: 1234 tokens/s; 1.00 GB/s of weights, 25.0 % of the \
             memory's\n"
        );
    }
}
