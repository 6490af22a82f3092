//! Logistic regression by Newton's method, with which calibrations are fitted.

/// Fitted logistic regression.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// Weight of each feature.
    pub weights: Vec<f64>,
    /// Intercept.
    pub offset: f64,
}

/// Fits two features to `targets` (probabilities) by minimizing the cross-entropy, and returns both
/// weights and the intercept; `None` if there is no minimum.
pub fn logistic_regression(features: &[[f64; 2]], targets: &[f64]) -> Option<[f64; 3]> {
    newton(features, targets, |_| 1.0, 0.0, vec![1.0, 0.0, 0.0])?
        .try_into()
        .ok()
}

/// Fits a logistic regression that minimizes the cross-entropy, each row weighted by its
/// `importance`, plus half of `ridge` times the squared norm of the weights (`ridge` is `1 / C` of
/// scikit-learn). `None` if there is no minimum, there are no rows, or the lengths differ.
pub fn ridge_regression<R: AsRef<[f64]>>(
    rows: &[R],
    targets: &[f64],
    importance: &[f64],
    ridge: f64,
) -> Option<Logistic> {
    let width = rows.first()?.as_ref().len();
    if rows.iter().any(|row| row.as_ref().len() != width)
        || rows.len() != targets.len()
        || rows.len() != importance.len()
    {
        return None;
    }
    let mut weights = newton(
        rows,
        targets,
        |row| importance[row],
        ridge,
        vec![0.0; width + 1],
    )?;
    let offset = weights.pop()?;
    Some(Logistic { weights, offset })
}

/// Minimizes the loss from `weights`, of which the last is the intercept.
fn newton<R: AsRef<[f64]>>(
    rows: &[R],
    targets: &[f64],
    importance: impl Fn(usize) -> f64,
    ridge: f64,
    mut weights: Vec<f64>,
) -> Option<Vec<f64>> {
    let n = weights.len();
    let mut x = vec![1.0; n];
    for _ in 0..100 {
        let mut gradient: Vec<f64> = weights.iter().map(|weight| ridge * weight).collect();
        gradient[n - 1] = 0.0;
        let mut hessian = vec![vec![0.0; n]; n];
        for (row, (features, target)) in rows.iter().zip(targets).enumerate() {
            x[..n - 1].copy_from_slice(features.as_ref());
            let z: f64 = x.iter().zip(&weights).map(|(x, w)| x * w).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            let (slope, curvature) = (
                importance(row) * (p - target),
                importance(row) * p * (1.0 - p),
            );
            for i in 0..n {
                gradient[i] += slope * x[i];
                (0..=i).for_each(|j| hessian[i][j] += curvature * x[i] * x[j]);
            }
        }
        // A constant feature has no defined weight; a trace of ridge leaves it unchanged.
        (0..n).for_each(|i| hessian[i][i] += 1e-6 + if i < n - 1 { ridge } else { 0.0 });
        let step = solve(hessian, gradient)?;
        // A full step far from the optimum may overshoot.
        let scale = (2.0 / step.iter().map(|s| s.abs()).sum::<f64>()).min(1.0);
        weights
            .iter_mut()
            .zip(&step)
            .for_each(|(w, s)| *w -= scale * s);
        if step.iter().all(|s| s.abs() < 1e-9) {
            break;
        }
    }
    weights.iter().all(|w| w.is_finite()).then_some(weights)
}

/// Solves `a x = b` by Cholesky decomposition of the symmetric matrix `a`, of which only the lower
/// half is read; `None` if it is singular.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    let mut determinant = 1.0;
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i][j] - (0..j).map(|k| a[i][k] * a[j][k]).sum::<f64>();
            a[i][j] = if i > j { rest / a[j][j] } else { rest.sqrt() };
        }
        determinant *= a[i][i] * a[i][i];
    }
    if determinant.is_nan() || determinant <= 1e-12 {
        return None;
    }
    for i in 0..n {
        b[i] = (b[i] - (0..i).map(|k| a[i][k] * b[k]).sum::<f64>()) / a[i][i];
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|k| a[k][i] * b[k]).sum::<f64>()) / a[i][i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_recovers_the_coefficients_of_the_data() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
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
        assert!(
            (a - 0.8).abs() < 0.03 && (b - 0.2).abs() < 0.03 && (c - 1.0).abs() < 0.1,
            "{a} {b} {c}"
        );
    }

    #[test]
    fn ridge_regression_equals_scikit_learn() {
        let feature = |i: usize, factor: usize, modulus: usize, half: f64| {
            (i * factor % modulus) as f64 / half - 1.0
        };
        let rows: Vec<Vec<f64>> = (0..60)
            .map(|i| {
                vec![
                    feature(i, 37, 17, 8.0),
                    feature(i, 53, 23, 11.0),
                    feature(i, 29, 13, 6.0),
                    feature(i, 71, 19, 9.0),
                ]
            })
            .collect();
        let targets: Vec<f64> = rows
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let z: f64 = 1.5 * x[0] - 2.0 * x[1] + 0.5 * x[2] + 0.3;
                f64::from(u8::from(
                    (i as f64 * 0.754_877_666).fract() < 1.0 / (1.0 + (-z).exp()),
                ))
            })
            .collect();
        assert_eq!(targets.iter().sum::<f64>(), 32.0);
        let importance: Vec<f64> = (0..60).map(|i| 1.0 + (i % 3) as f64 * 0.5).collect();
        // LogisticRegression(C=.3, tol=1e-12, solver="newton-cholesky").fit(rows, targets,
        // sample_weight=importance)
        let want = [
            0.819_665_331_146_103_5,
            -1.546_031_714_462_090_8,
            0.371_294_716_407_075_7,
            0.228_368_855_952_363_1,
        ];
        let fitted = ridge_regression(&rows, &targets, &importance, 1.0 / 0.3).unwrap();
        assert!(
            fitted
                .weights
                .iter()
                .zip(want)
                .all(|(ours, theirs)| (ours - theirs).abs() < 1e-5),
            "{fitted:?}"
        );
        assert!(
            (fitted.offset - 0.209_325_229_607_321_03).abs() < 1e-5,
            "{fitted:?}"
        );
        assert_eq!(
            ridge_regression(&rows, &targets[1..], &importance, 1.0),
            None
        );
        assert_eq!(ridge_regression::<Vec<f64>>(&[], &[], &[], 1.0), None);
    }

    #[test]
    fn weight_of_a_constant_feature_stays_at_its_initial_value() {
        let rows: Vec<[f64; 2]> = (0..40).map(|i| [f64::from(i % 7) - 3.0, 0.0]).collect();
        let targets: Vec<f64> = (0..40)
            .map(|i| f64::from(u8::from(i % 7 > 2 || i % 5 == 0)))
            .collect();
        let [_, unused, _] = logistic_regression(&rows, &targets).unwrap();
        assert_eq!(unused, 0.0);
    }
}
