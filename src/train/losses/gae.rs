//! Generalized advantage estimation (Schulman et al., ICLR 2016,
//! <https://arxiv.org/abs/1506.02438>) over the tokens of one answer, and whitening.

/// Parameters of generalized advantage estimation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gae {
    /// Discount `γ`; 1 for short answers.
    pub gamma: f32,
    /// Trace decay `λ`: 1 gives the return minus the value, 0 the one-step temporal difference.
    pub lambda: f32,
}

impl Gae {
    /// Advantages and returns of one answer, one per token: `rewards[t]` is the reward of token
    /// `t`, `values[t]` the value estimate before it. The value after the last token is 0.
    ///
    /// `δ_t = r_t + γ V_{t+1} - V_t`, `A_t = δ_t + γ λ A_{t+1}`, and the return is `A_t + V_t`.
    pub fn advantages(&self, rewards: &[f32], values: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut advantages = vec![0.0; rewards.len().min(values.len())];
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for (t, advantage) in advantages.iter_mut().enumerate().rev() {
            let delta: f32 = rewards[t] + self.gamma * next_value - values[t];
            *advantage = delta + self.gamma * self.lambda * next_advantage;
            (next_value, next_advantage) = (values[t], *advantage);
        }
        let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
        (advantages, returns)
    }
}

/// Normalizes the masked values to mean 0 and variance 1 (unbiased, as TRL's `masked_whiten`) and
/// sets the others to 0. Fewer than two masked values are left unchanged.
pub fn whiten(values: &mut [f32], mask: &[bool]) {
    let select = |values: &[f32]| -> Vec<f64> {
        values
            .iter()
            .zip(mask)
            .filter(|(_, m)| **m)
            .map(|(v, _)| f64::from(*v))
            .collect()
    };
    let masked = select(values);
    if masked.len() < 2 {
        return;
    }
    let mean = masked.iter().sum::<f64>() / masked.len() as f64;
    let variance =
        masked.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (masked.len() - 1) as f64;
    let scale = (variance + 1e-8).sqrt().recip();
    for (value, &taken) in values.iter_mut().zip(mask) {
        *value = if taken {
            ((f64::from(*value) - mean) * scale) as f32
        } else {
            0.0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::losses::tests::reference;

    const GAE: Gae = Gae {
        gamma: 1.0,
        lambda: 0.95,
    };

    #[test]
    fn advantages_lambda_one_is_return_minus_value() {
        let (rewards, values) = ([0.0, 1.0, 0.0, -2.0], [0.5, 0.25, -1.0, 3.0]);
        let (advantages, returns) = Gae {
            gamma: 1.0,
            lambda: 1.0,
        }
        .advantages(&rewards, &values);
        assert_eq!(returns, [-1.0, -1.0, -2.0, -2.0]);
        assert_eq!(advantages, [-1.5, -1.25, -1.0, -5.0]);
    }

    #[test]
    fn advantages_lambda_zero_is_temporal_difference() {
        let (advantages, _) = Gae {
            gamma: 0.5,
            lambda: 0.0,
        }
        .advantages(&[1.0, 2.0, 3.0], &[4.0, 6.0, 8.0]);
        assert_eq!(advantages, [1.0 + 3.0 - 4.0, 2.0 + 4.0 - 6.0, 3.0 - 8.0]);
    }

    #[test]
    fn advantages_and_returns_agree_with_trl() {
        let reference_values = reference();
        let mut all = Vec::new();
        for sequence in reference_values.sequences() {
            let (advantages, returns) =
                GAE.advantages(&sequence.values("rewards"), &sequence.values("values"));
            sequence.assert_close("returns", &returns);
            all.extend(advantages);
        }
        let mask = vec![true; all.len()];
        whiten(&mut all, &mask);
        reference_values.assert_close("advantages", &all);
    }

    #[test]
    fn whiten_normalizes_masked_values_only() {
        let mut values = [1.0, 100.0, 3.0];
        whiten(&mut values, &[true, false, true]);
        let want = 0.5f32.sqrt();
        assert!(
            (values[0] + want).abs() < 1e-6 && values[1] == 0.0 && (values[2] - want).abs() < 1e-6,
            "{values:?}"
        );
        let mut alone = [5.0];
        whiten(&mut alone, &[true]);
        assert_eq!(alone, [5.0]);
    }
}
