//! Concept activation vectors against scikit-learn's, and TCAV scores against Captum's with that
//! classifier: see tcav.py.

use explaind::tcav::cav::Cav;
use safetensors::SafeTensors;

use crate::stored;

/// `[rows, n]` of a stored tensor; earlier axes are counted as rows.
fn rows(name: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(stored::path("tcav.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let length = *tensors.tensor(name).unwrap().shape().last().unwrap();
    let values = stored::read("tcav.safetensors").floats(name).unwrap();
    values.chunks(length).map(<[f32]>::to_vec).collect()
}

fn slices(rows: &[Vec<f32>]) -> Vec<&[f32]> {
    rows.iter().map(Vec::as_slice).collect()
}

#[test]
fn vectors_are_scikit_learns_and_scores_captums() {
    let file = stored::read("tcav.safetensors");
    let (regularisation, set): (f64, usize) = (file.json("regularisation"), file.json("set"));
    for layer in ["early", "late", "dense"] {
        let of = |part: &str| rows(&format!("{layer}.{part}"));
        let (concept, random, gradients) = (of("concept"), of("random"), of("gradients"));
        let (vectors, accuracies, scores) = (of("vectors"), of("accuracies"), of("scores"));
        assert!(concept.len() == set && random.len() == set * vectors.len());
        for (draw, random) in random.chunks(set).enumerate() {
            let [concept, random] = [&concept[..], random].map(slices);
            let cav = Cav::fit(&concept, &random, regularisation)
                .unwrap()
                .unwrap();
            let apart = cav.direction().iter().zip(&vectors[draw]);
            let apart: f64 = apart.map(|(a, b)| (a - f64::from(*b)).powi(2)).sum();
            assert!(apart.sqrt() < 1e-5, "{layer} {draw}: {}", apart.sqrt());
            let inside = concept.iter().filter(|row| cav.contains(row)).count();
            let outside = random.iter().filter(|row| !cav.contains(row)).count();
            let accuracy = (inside + outside) as f32 / (2 * set) as f32;
            assert!(
                (accuracy - accuracies[draw][0]).abs() < 1e-6,
                "{layer} {draw}"
            );
            let positive = gradients.iter().filter(|row| cav.along(row) > 0.0).count();
            let score = positive as f32 / gradients.len() as f32;
            assert!(
                (score - scores[draw][0]).abs() < 1e-3,
                "{layer} {draw}: {score}"
            );
        }
    }
}
