//! The metrics: the table of contents of this room. A new metric is a file and a row.

use serde_json::Value;

use super::{
    Metric, completeness, confidence, degradation, entropy, hulls, infidelity, information,
    input_dependence, input_independence, localisation, max_sensitivity, model_contrast,
    model_randomisation, perturbation_epsilon, random_logit, repeatability, rise, road,
    sensitivity_n, sparseness,
};
use crate::{
    faults::Fault,
    text::{meant, shown},
};

pub static METRICS: &[Metric] = &[
    degradation::METRIC,
    rise::DELETION,
    rise::INSERTION,
    road::ROAD,
    road::ROAD_MORF,
    road::ROAD_LERF,
    confidence::AVERAGE_DROP,
    confidence::AVERAGE_INCREASE,
    confidence::AVERAGE_GAIN,
    infidelity::METRIC,
    sensitivity_n::METRIC,
    information::SIC,
    information::AIC,
    model_randomisation::METRIC,
    sparseness::METRIC,
    localisation::POINTING_GAME,
    localisation::ENERGY_POINTING,
    localisation::RELEVANCE_MASS,
    localisation::RELEVANCE_RANK,
    localisation::TOP_K_INTERSECTION,
    entropy::METRIC,
    completeness::METRIC,
    perturbation_epsilon::METRIC,
    random_logit::METRIC,
    repeatability::METRIC,
    max_sensitivity::METRIC,
    model_contrast::MCS,
    model_contrast::CORRELATION,
    input_dependence::METRIC,
    input_independence::METRIC,
    hulls::RC,
    hulls::RS,
];

/// The row called `id`.
pub fn find(id: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.id == id)
}

/// A value that is no metric's id.
pub fn unknown(value: &Value) -> Fault {
    let ids = || METRICS.iter().map(|metric| metric.id);
    let meant = meant(value.as_str().unwrap_or_default(), ids());
    let message = format!("no metric is called {}{meant}", shown(value));
    Fault::new("metric", message, ids())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::evaluation::{Cost, parameters::Values};

    /// Each metric on a case that was worked by hand.
    const WORKED: &[(&str, fn())] = &[
        (
            "degradation",
            degradation::tests::a_hand_worked_image_degrades_as_worked_by_hand,
        ),
        (
            "deletion",
            rise::tests::hand_worked_pixels_are_deleted_as_worked_by_hand,
        ),
        (
            "insertion",
            rise::tests::hand_worked_pixels_are_inserted_as_worked_by_hand,
        ),
        (
            "road",
            road::tests::hand_worked_pixels_are_imputed_as_worked_by_hand,
        ),
        (
            "road_morf",
            road::tests::hand_worked_pixels_are_imputed_as_worked_by_hand,
        ),
        (
            "road_lerf",
            road::tests::hand_worked_pixels_are_imputed_as_worked_by_hand,
        ),
        (
            "average_drop",
            confidence::tests::hand_worked_maps_change_the_score_as_worked_by_hand,
        ),
        (
            "average_increase",
            confidence::tests::hand_worked_maps_change_the_score_as_worked_by_hand,
        ),
        (
            "average_gain",
            confidence::tests::hand_worked_maps_change_the_score_as_worked_by_hand,
        ),
        (
            "sic",
            information::tests::five_pictures_have_the_area_under_scores_worked_by_hand,
        ),
        (
            "aic",
            information::tests::five_pictures_have_the_area_under_rights_worked_by_hand,
        ),
        (
            "model_randomisation",
            model_randomisation::tests::hand_worked_maps_correlate_as_worked_by_hand,
        ),
        (
            "sparseness",
            sparseness::tests::a_hand_worked_map_is_as_sparse_as_worked_by_hand,
        ),
        (
            "pointing_game",
            localisation::tests::a_hand_worked_map_points_as_worked_by_hand,
        ),
        (
            "energy_pointing",
            localisation::tests::a_hand_worked_map_has_the_energy_worked_by_hand,
        ),
        (
            "relevance_mass",
            localisation::tests::a_hand_worked_map_has_the_mass_worked_by_hand,
        ),
        (
            "relevance_rank",
            localisation::tests::a_hand_worked_map_ranks_as_worked_by_hand,
        ),
        (
            "top_k_intersection",
            localisation::tests::the_highest_pixels_of_a_hand_worked_map_are_worked_by_hand,
        ),
        (
            "entropy",
            entropy::tests::a_hand_worked_map_has_the_entropy_worked_by_hand,
        ),
        (
            "completeness",
            completeness::tests::a_hand_worked_map_misses_what_was_worked_by_hand,
        ),
        (
            "perturbation_epsilon",
            perturbation_epsilon::tests::hand_worked_features_pass_as_worked_by_hand,
        ),
        (
            "random_logit",
            random_logit::tests::hand_worked_maps_are_as_similar_as_worked_by_hand,
        ),
        (
            "repeatability",
            repeatability::tests::a_hand_worked_repetition_correlates_as_worked_by_hand,
        ),
        (
            "infidelity",
            infidelity::tests::a_hand_worked_map_misses_what_was_worked_by_hand,
        ),
        (
            "sensitivity_n",
            sensitivity_n::tests::hand_worked_subsets_correlate_as_worked_by_hand,
        ),
        (
            "max_sensitivity",
            max_sensitivity::tests::a_hand_worked_map_changes_as_worked_by_hand,
        ),
        (
            "mcs",
            model_contrast::tests::hand_worked_models_contrast_as_worked_by_hand,
        ),
        (
            "mcs_correlation",
            model_contrast::tests::a_model_counts_on_the_images_that_it_predicts_rightly,
        ),
        (
            "idr",
            input_dependence::tests::a_hand_worked_pair_is_attributed_as_worked_by_hand,
        ),
        (
            "rc",
            hulls::tests::hand_worked_hulls_compare_as_worked_by_hand,
        ),
        (
            "rs",
            hulls::tests::hand_worked_hulls_compare_as_worked_by_hand,
        ),
        (
            "iir",
            input_independence::tests::a_step_on_a_linear_model_is_that_worked_by_hand,
        ),
    ];

    #[test]
    fn what_is_said_to_cost_nothing_costs_nothing() {
        let is_free = |metric: &&Metric| metric.needs.cost.words == Cost::NONE.words;
        let mut free = METRICS.iter().filter(is_free);
        assert!(free.all(|metric| (metric.needs.cost.count)(&Values::default(), 64, 1000) == 0));
    }

    #[test]
    fn every_row_has_an_id_and_a_title_of_its_own_and_a_hand_worked_case() {
        let all = |of: fn(&Metric) -> &'static str| -> BTreeSet<&str> {
            METRICS.iter().map(of).collect()
        };
        assert_eq!(all(|metric| metric.id).len(), METRICS.len());
        assert_eq!(all(|metric| metric.title).len(), METRICS.len());
        let worked: BTreeSet<&str> = WORKED.iter().map(|(id, _)| *id).collect();
        assert_eq!(worked, all(|metric| metric.id));
        WORKED.iter().for_each(|(_, work)| work());
    }
}
