//! Thresholds of rewards, chosen on tokens whose truth is known.

/// A scored token whose truth is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredToken {
    /// Reward, or any score that grows with it.
    pub reward: f32,
    /// `true` if the token is grounded.
    pub good: bool,
    /// Number of the image that it speaks of.
    pub image: u32,
}

/// Returns the highest threshold below which at most a share `fpr` of the grounded tokens falls
/// (tokens with a reward **below** it are flagged); infinity where it may flag all of them.
pub fn threshold_at_fpr(tokens: &[ScoredToken], fpr: f64) -> f32 {
    let mut rewards: Vec<f32> = tokens
        .iter()
        .filter(|token| token.good)
        .map(|token| token.reward)
        .collect();
    rewards.sort_by(f32::total_cmp);
    let flagged = (fpr * rewards.len() as f64 + 1e-9) as usize;
    rewards.get(flagged).copied().unwrap_or(f32::INFINITY)
}
