//! Logistic regression on two features: what calibrations are fitted with.

/// Coefficients of the two features and the intercept that minimise the cross-entropy to `targets` (probabilities, 0 to 1), by Newton's method; `None` where there
/// is no minimum to be found.
pub fn logistic_regression(features: &[[f64; 2]], targets: &[f64]) -> Option<[f64; 3]> {
    let mut weights = [1.0, 0.0, 0.0];
    for _ in 0..100 {
        let mut gradient = [0.0; 3];
        let mut hessian = [[0.0; 3]; 3];
        for (x, target) in features.iter().zip(targets) {
            let x = [x[0], x[1], 1.0];
            let z: f64 = x.iter().zip(weights).map(|(x, w)| x * w).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            for i in 0..3 {
                gradient[i] += (p - target) * x[i];
                (0..3).for_each(|j| hessian[i][j] += p * (1.0 - p) * x[i] * x[j]);
            }
        }
        // A feature that never changes has no coefficient to be found; a trace of ridge leaves it where it is.
        (0..3).for_each(|i| hessian[i][i] += 1e-6);
        let step = solve(hessian, gradient)?;
        // A full step far from the optimum can overshoot.
        let scale = (2.0 / step.iter().map(|s| s.abs()).sum::<f64>()).min(1.0);
        weights.iter_mut().zip(step).for_each(|(w, s)| *w -= scale * s);
        if step.iter().all(|s| s.abs() < 1e-9) {
            break;
        }
    }
    weights.iter().all(|w| w.is_finite()).then_some(weights)
}

/// Solves `a x = b` by Cramer's rule.
fn solve(a: [[f64; 3]; 3], b: [f64; 3]) -> Option<[f64; 3]> {
    let determinant = |m: &[[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = determinant(&a);
    let column = |i: usize| {
        let mut m = a;
        (0..3).for_each(|row| m[row][i] = b[row]);
        determinant(&m) / whole
    };
    (whole.abs() > 1e-12).then(|| [column(0), column(1), column(2)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_coefficients_that_made_the_data() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let (features, targets): (Vec<[f64; 2]>, Vec<f64>) = (0..20_000)
            .map(|_| {
                let x = [uniform() * 8.0 - 4.0, -uniform() * 6.0];
                let z: f64 = 0.8 * x[0] + 0.2 * x[1] + 1.0;
                (x, f64::from(u8::from(uniform() < 1.0 / (1.0 + (-z).exp()))))
            })
            .unzip();
        let [a, b, c] = logistic_regression(&features, &targets).unwrap();
        assert!((a - 0.8).abs() < 0.03 && (b - 0.2).abs() < 0.03 && (c - 1.0).abs() < 0.1, "{a} {b} {c}");
    }
}
