//! The methods: the table of contents of this room. A new method is a file and a row.

use serde_json::{Map, Value};

use super::{
    applies::obstacle,
    attention::{self, ATTENTION},
    edges, eigen_cam, expected, feature_ablation, gad, grad_cam,
    halves::{AVERAGED, FITTED},
    kernel_shap::{self, COALITIONS},
    layers::LAYER,
    lime::{self, KERNEL},
    noise::{self, N_SAMPLES, NOISE},
    occlusion::{self, WINDOWS},
    parameters::{
        Facts, Parameters,
        common::{
            BASELINE, COMPAT_PGIG, DIFFERENTIATED, FORWARD, FORWARD_PROBABILITIES, PATTERN_LAYERS,
            PATTERN_LAYERS_ALL, RULE_SET, SEED, TARGET,
        },
        lrp::{self, RELEVANCE},
        renamed,
    },
    path::{self, PATH, TOLERANCE},
    point, random,
    regions::{COMPAT_SIG, PARTITION, REGIONS},
    rise,
    score_cam::{self, MAX_CHANNELS},
    shapley_sampling, xrai,
};
use crate::{
    faults::{Fault, Faults},
    picture::baseline::{Baseline, Term},
    text::{excerpt, meant, shown},
};
use onnx_autodiff::autodiff::{
    rounding,
    spec::{PatternLayers, RuleSetId, SeedRule},
};

pub use super::parameters::{Cost, Method, Need, Scores};

/// The defaults of most methods.
const USUAL: fn(&mut Parameters) = |_| ();

pub static METHODS: &[Method] = &[
    Method {
        id: "gradient",
        title: "Gradient",
        short: "Gradient",
        scores: Scores::Sensitivity,
        color: [86, 180, 233],
        formula: "g(x)",
        paper: "Simonyan et al., Deep Inside Convolutional Networks, 2013, section 3",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED],
        cost: Cost::ONE,
        build: point::derivative,
    },
    Method {
        id: "input_x_gradient",
        title: "Input × Gradient",
        short: "Input × Gradient",
        scores: Scores::Evidence,
        color: [153, 153, 51],
        formula: "x ⊙ g(x)",
        paper: "Shrikumar et al., Not Just a Black Box, 2016, section 3",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &RULE_SET],
        cost: Cost::ONE,
        build: point::input_x_derivative,
    },
    Method {
        id: "integrated_gradients",
        title: "Integrated Gradients",
        short: "Integrated Gradients",
        scores: Scores::Evidence,
        color: [0, 114, 178],
        formula: "(x - x') ⊙ Σ w_k g(x' + α_k (x - x'))",
        paper: "Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017, section 3",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Baselines],
        preset: USUAL,
        groups: &[
            &DIFFERENTIATED,
            &RULE_SET,
            &BASELINE,
            &PATH,
            &TOLERANCE,
            &SEED,
            &COMPAT_PGIG,
        ],
        cost: path::COST,
        build: path::straight_line,
    },
    Method {
        id: "guided_backprop",
        title: "Guided Backpropagation",
        short: "Guided Backprop",
        scores: Scores::Sensitivity,
        color: [0, 158, 115],
        formula: "g(x), rectifiers pass positive cotangents where they were on",
        paper: "Springenberg et al., Striving for Simplicity, 2014, section 3.4",
        rule_set: Some(RuleSetId::GuidedBackprop),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED],
        cost: Cost::ONE,
        build: point::derivative,
    },
    Method {
        id: "deconvnet",
        title: "DeconvNet",
        short: "DeconvNet",
        scores: Scores::Sensitivity,
        color: [68, 170, 153],
        formula: "g(x), rectifiers pass positive cotangents",
        paper: "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2013, section 2.1",
        rule_set: Some(RuleSetId::Deconvnet),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED],
        cost: Cost::ONE,
        build: point::derivative,
    },
    Method {
        id: "pattern_attribution",
        title: "PatternAttribution",
        short: "PatternAttribution",
        scores: Scores::Evidence,
        color: [230, 159, 0],
        formula: "g(x) with weights w ⊙ p, started with f_c(x)",
        paper: "Kindermans et al., Learning how to explain neural networks, 2017, section 4",
        rule_set: Some(RuleSetId::PatternAttribution),
        needs: &[],
        preset: |p| (p.grad_output, p.pattern_layers) = (SeedRule::Value, PatternLayers::All),
        groups: &[&DIFFERENTIATED, &PATTERN_LAYERS_ALL],
        cost: Cost::ONE,
        build: point::derivative,
    },
    Method {
        id: "pattern_net",
        title: "PatternNet",
        short: "PatternNet",
        scores: Scores::Sensitivity,
        color: [200, 180, 90],
        formula: "g(x) with patterns p for weights: the signal",
        paper: "Kindermans et al., Learning how to explain neural networks, 2017, section 4",
        rule_set: Some(RuleSetId::PatternNet),
        needs: &[],
        preset: |p| p.pattern_layers = PatternLayers::All,
        groups: &[&DIFFERENTIATED, &PATTERN_LAYERS_ALL],
        cost: Cost::ONE,
        build: point::derivative,
    },
    Method {
        id: "pgig",
        title: "Pattern-Guided Integrated Gradients",
        short: "PGIG",
        scores: Scores::Evidence,
        color: [213, 94, 0],
        formula: "(x - x') ⊙ Σ w_k g(x' + α_k (x - x')) with weights w ⊙ p",
        paper: "Schwarzenberg & Castle, Pattern-Guided Integrated Gradients, 2020, Eq. 4",
        rule_set: Some(RuleSetId::PatternAttribution),
        needs: &[Need::Baselines],
        preset: USUAL,
        groups: &[
            &DIFFERENTIATED,
            &PATTERN_LAYERS,
            &BASELINE,
            &PATH,
            &SEED,
            &COMPAT_PGIG,
        ],
        cost: path::COST,
        build: path::straight_line,
    },
    Method {
        id: "lrp",
        title: "Layer-wise Relevance Propagation",
        short: "LRP",
        scores: Scores::Evidence,
        color: [90, 60, 20],
        formula: "R_i = Σ_j z_ij / Σ_i z_ij R_j from f_c(x) back to the input, z by the rules of the composite",
        paper: "Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation, 2015; \
                Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019, section 10.2",
        rule_set: Some(RuleSetId::Lrp),
        needs: &[],
        preset: lrp::preset,
        groups: &[&RELEVANCE],
        cost: Cost::ONE,
        build: point::derivative,
    },
    Method {
        id: "xrai",
        title: "XRAI",
        short: "XRAI",
        scores: Scores::Areas,
        color: [204, 102, 119],
        formula: "regions ranked by the mean of max over channels of integrated_gradients; each pixel that of its region",
        paper: "Kapishnikov et al., Segment Integrated Gradients (XRAI), 2019, section 4",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Baselines, Need::Regions],
        preset: |p| p.baseline = Baseline::from([Term::Min, Term::Max]),
        groups: &[
            &DIFFERENTIATED,
            &RULE_SET,
            &REGIONS,
            &COMPAT_SIG,
            &BASELINE,
            &PATH,
            &TOLERANCE,
            &SEED,
        ],
        cost: path::COST,
        build: xrai::xrai,
    },
    Method {
        id: "feature_ablation",
        title: "Feature Ablation",
        short: "Feature Ablation",
        scores: Scores::Evidence,
        color: [0, 63, 92],
        formula: "f(x) - f(x with the region at x'), for each region",
        paper: "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2013, section 4.2",
        rule_set: None,
        needs: &[Need::Baselines, Need::Partition],
        preset: USUAL,
        groups: &[&FORWARD, &PARTITION, &BASELINE],
        cost: feature_ablation::COST,
        build: feature_ablation::ablation,
    },
    Method {
        id: "lime",
        title: "LIME",
        short: "LIME",
        scores: Scores::Evidence,
        color: [122, 81, 149],
        formula: "coefficients of a ridge regression of f on which regions are shown, near the input",
        paper: "Ribeiro et al., \"Why Should I Trust You?\": Explaining the Predictions of Any Classifier, 2016, section 3.4",
        rule_set: None,
        needs: &[Need::Baselines, Need::Partition],
        preset: lime::preset,
        groups: &[
            &FORWARD,
            &PARTITION,
            &BASELINE,
            &lime::PRESET,
            &N_SAMPLES,
            &KERNEL,
            &FITTED,
            &SEED,
        ],
        cost: lime::COST,
        build: lime::lime,
    },
    Method {
        id: "kernel_shap",
        title: "KernelSHAP",
        short: "KernelSHAP",
        scores: Scores::Evidence,
        color: [239, 86, 117],
        formula: "Shapley values of the regions by weighted least squares; they sum to f(x) - f(x')",
        paper: "Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, 2017, section 4.1",
        rule_set: None,
        needs: &[Need::Baselines, Need::Partition],
        preset: USUAL,
        groups: &[&FORWARD, &PARTITION, &BASELINE, &COALITIONS, &FITTED, &SEED],
        cost: kernel_shap::COST,
        build: kernel_shap::kernel_shap,
    },
    Method {
        id: "shapley_sampling",
        title: "Shapley Sampling",
        short: "Shapley Sampling",
        scores: Scores::Evidence,
        color: [255, 166, 0],
        formula: "mean over random orders of f(the region and those before it) - f(those before it)",
        paper: "Castro et al., Polynomial calculation of the Shapley value based on sampling, 2009, section 3",
        rule_set: None,
        needs: &[Need::Baselines, Need::Partition],
        preset: USUAL,
        groups: &[
            &FORWARD,
            &PARTITION,
            &BASELINE,
            &shapley_sampling::PRESET,
            &N_SAMPLES,
            &AVERAGED,
            &SEED,
        ],
        cost: shapley_sampling::COST,
        build: shapley_sampling::sampled,
    },
    Method {
        id: "smooth_grad",
        title: "SmoothGrad",
        short: "SmoothGrad",
        scores: Scores::Sensitivity,
        color: [170, 68, 153],
        formula: "mean of g(x + ε), ε ~ N(0, σ²), σ = noise_level (max x - min x)",
        paper: "Smilkov et al., SmoothGrad: removing noise by adding noise, 2017, section 3",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &RULE_SET, &NOISE, &SEED, &COMPAT_PGIG],
        cost: noise::COST,
        build: noise::mean,
    },
    Method {
        id: "smooth_grad_sq",
        title: "SmoothGrad²",
        short: "SmoothGrad²",
        scores: Scores::Magnitude,
        color: [136, 34, 85],
        formula: "mean of g(x + ε)²",
        paper: "Hooker et al., A Benchmark for Interpretability Methods in Deep Neural Networks, 2019, section 4",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &RULE_SET, &NOISE, &SEED, &COMPAT_PGIG],
        cost: noise::COST,
        build: noise::mean_square,
    },
    Method {
        id: "var_grad",
        title: "VarGrad",
        short: "VarGrad",
        scores: Scores::Magnitude,
        color: [204, 121, 167],
        formula: "variance of g(x + ε) over the samples",
        paper: "Adebayo et al., Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values, 2018",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &RULE_SET, &NOISE, &SEED, &COMPAT_PGIG],
        cost: noise::COST,
        build: noise::variance,
    },
    Method {
        id: "smooth_grad_ig",
        title: "SmoothGrad Integrated Gradients",
        short: "SmoothGrad-IG",
        scores: Scores::Evidence,
        color: [51, 34, 136],
        formula: "mean over ε of integrated_gradients at x + ε",
        paper: "Smilkov et al., SmoothGrad: removing noise by adding noise, 2017, section 4",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Baselines],
        preset: USUAL,
        groups: &[
            &DIFFERENTIATED,
            &RULE_SET,
            &BASELINE,
            &PATH,
            &NOISE,
            &SEED,
            &COMPAT_PGIG,
        ],
        cost: noise::PATHS_COST,
        build: noise::mean_path,
    },
    Method {
        id: "expected_gradients",
        title: "Expected Gradients",
        short: "Expected Gradients",
        scores: Scores::Evidence,
        color: [17, 119, 51],
        formula: "mean over x' and α ~ U(0, 1) of (x - x') ⊙ g(x' + α (x - x'))",
        paper: "Erion et al., Improving performance of deep learning models with axiomatic attribution priors and expected gradients, 2019",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Baselines],
        preset: expected::preset,
        groups: &[&DIFFERENTIATED, &RULE_SET, &BASELINE, &N_SAMPLES, &SEED],
        cost: expected::COST,
        build: expected::expected_derivative,
    },
    Method {
        id: "grad_cam",
        title: "Grad-CAM",
        short: "Grad-CAM",
        scores: Scores::Areas,
        color: [140, 86, 75],
        formula: "ReLU(Σ_k mean(∂f_c/∂A_k) A_k), upsampled",
        paper: "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, 2017, section 3",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &LAYER],
        cost: Cost::ONE,
        build: grad_cam::class_map,
    },
    Method {
        id: "guided_grad_cam",
        title: "Guided Grad-CAM",
        short: "Guided Grad-CAM",
        scores: Scores::Sensitivity,
        color: [102, 130, 20],
        formula: "grad_cam ⊙ guided_backprop",
        paper: "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, 2017, section 3.2",
        rule_set: Some(RuleSetId::GuidedBackprop),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &RULE_SET, &LAYER],
        cost: grad_cam::GUIDED_COST,
        build: grad_cam::guided_class_map,
    },
    Method {
        id: "layer_cam",
        title: "LayerCAM",
        short: "LayerCAM",
        scores: Scores::Areas,
        color: [196, 120, 60],
        formula: "ReLU(Σ_k ReLU(∂f_c/∂A_k) ⊙ A_k), upsampled",
        paper: "Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, 2021, section III",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &LAYER],
        cost: Cost::ONE,
        build: grad_cam::layer_map,
    },
    Method {
        id: "hires_cam",
        title: "HiResCAM",
        short: "HiResCAM",
        scores: Scores::Areas,
        color: [110, 60, 30],
        formula: "ReLU(Σ_k ∂f_c/∂A_k ⊙ A_k), upsampled",
        paper: "Draelos & Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks, 2020, section 4",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &LAYER],
        cost: Cost::ONE,
        build: grad_cam::elementwise_map,
    },
    Method {
        id: "eigen_cam",
        title: "Eigen-CAM",
        short: "Eigen-CAM",
        scores: Scores::Areas,
        color: [120, 120, 200],
        formula: "ReLU of the first principal component of A over its places, upsampled; the same for every class",
        paper: "Muhammad & Yeasin, Eigen-CAM: Class Activation Map using Principal Components, 2020, section III",
        rule_set: None,
        needs: &[],
        preset: USUAL,
        groups: &[&TARGET, &LAYER],
        cost: Cost::ONE,
        build: eigen_cam::principal_map,
    },
    Method {
        id: "score_cam",
        title: "Score-CAM",
        short: "Score-CAM",
        scores: Scores::Areas,
        color: [60, 160, 140],
        formula: "ReLU(Σ_k α_k A_k), α = softmax over k of f_c(x ⊙ s(A_k)), upsampled",
        paper: "Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, 2020, section 3",
        rule_set: None,
        needs: &[],
        preset: USUAL,
        groups: &[&FORWARD, &LAYER, &MAX_CHANNELS],
        cost: score_cam::COST,
        build: score_cam::scored_map,
    },
    Method {
        id: "attention_rollout",
        title: "Attention Rollout",
        short: "Attention Rollout",
        scores: Scores::Areas,
        color: [90, 40, 110],
        formula: "row of Π_l (I + mean over heads of A_l) / 2 for the tokens that the head reads; the same for every class",
        paper: "Abnar & Zuidema, Quantifying Attention Flow in Transformers, 2020, section 3",
        rule_set: None,
        needs: &[Need::Attention],
        preset: USUAL,
        groups: &[&TARGET, &ATTENTION],
        cost: Cost::ONE,
        build: attention::rollout,
    },
    Method {
        id: "gradient_rollout",
        title: "Gradient Rollout",
        short: "Gradient Rollout",
        scores: Scores::Areas,
        color: [200, 60, 100],
        formula: "row of Π_l (I + mean over heads of (∂f_c/∂A_l ⊙ A_l)⁺) - I for the tokens that the head reads",
        paper: "Chefer et al., Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers, 2021, Eq. 5 and 6",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Attention],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &ATTENTION],
        cost: Cost::ONE,
        build: attention::gradient_rollout,
    },
    Method {
        id: "legrad",
        title: "LeGrad",
        short: "LeGrad",
        scores: Scores::Areas,
        color: [0, 110, 130],
        formula: "Σ_l mean over heads and queries of (∂s_l/∂A_l)⁺, s_l the class's value by the head at the mean of the tokens behind block l",
        paper: "Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity, 2024, section 3",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Attention, Need::Exits],
        preset: USUAL,
        groups: &[&DIFFERENTIATED, &ATTENTION],
        cost: Cost::ONE,
        build: attention::legrad,
    },
    Method {
        id: "rise",
        title: "Randomized Input Sampling",
        short: "RISE",
        scores: Scores::Areas,
        color: [0, 150, 200],
        formula: "Σ_k f_c(x ⊙ M_k) M_k / (n p), M_k random masks that keep a cell with probability p",
        paper: "Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, 2018, section 3.2",
        rule_set: None,
        needs: &[],
        preset: rise::defaults,
        groups: &[
            &FORWARD_PROBABILITIES,
            &rise::PRESET,
            &N_SAMPLES,
            &rise::MASKS,
            &AVERAGED,
            &SEED,
        ],
        cost: rise::COST,
        build: rise::sampled,
    },
    Method {
        id: "occlusion",
        title: "Occlusion",
        short: "Occlusion",
        scores: Scores::Evidence,
        color: [120, 94, 240],
        formula: "mean over the windows that cover an element of f_c(x) - f_c(x with the window replaced by x')",
        paper: "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2013, section 4.1",
        rule_set: None,
        needs: &[Need::Baselines],
        preset: USUAL,
        groups: &[&FORWARD, &WINDOWS, &BASELINE],
        cost: occlusion::COST,
        build: occlusion::occlusion,
    },
    Method {
        id: "gad",
        title: "Gradient Artificial Distancing",
        short: "GAD",
        scores: Scores::Magnitude,
        color: [44, 62, 130],
        formula: "m(x) where m_k(x) > τ max m_k for the model and every support k, else 0; m: positive part of the channel sum of the base's map",
        paper: "Mazini Rodrigues et al., Transforming gradient-based techniques into interpretable methods, 2024, section 4",
        rule_set: Some(RuleSetId::Gradient),
        needs: &[Need::Base, Need::Supports],
        preset: |p| {
            if let Some(base) = base(gad::DEFAULT_BASE) {
                p.set_base(base);
            }
        },
        groups: &[&TARGET, &gad::SUPPORTS],
        cost: gad::COST,
        build: gad::persistent,
    },
    Method {
        id: "edges",
        title: "Edges",
        short: "Edges",
        scores: Scores::Magnitude,
        color: [160, 160, 160],
        formula: "Sobel magnitude of the picture's luma, the same for every model: a baseline of the benchmarks",
        paper: "Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 5.1",
        rule_set: None,
        needs: &[Need::Luma],
        preset: USUAL,
        groups: &[&TARGET],
        cost: Cost::NONE,
        build: edges::edges,
    },
    Method {
        id: "random",
        title: "Random",
        short: "Random",
        scores: Scores::Evidence,
        color: [90, 90, 90],
        formula: "u ~ U(-1, 1), the same for every model and input: a baseline of the benchmarks",
        paper: "none",
        rule_set: None,
        needs: &[],
        preset: USUAL,
        groups: &[&TARGET, &SEED],
        cost: Cost::NONE,
        build: random::noise,
    },
];

pub fn find(id: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.id == id)
}

/// The method called `id`, where another may work on its maps.
pub fn base(id: &str) -> Option<&'static Method> {
    gad::BASES.contains(&id).then(|| find(id)).flatten()
}

/// Names no method: the one that suits the model is taken.
pub const AUTO: &str = "auto";

/// The method for requests that name none, and why it is that one.
pub fn auto(facts: &Facts<'_>) -> (Option<&'static Method>, String) {
    if facts.has_patterns {
        return (find("pgig"), "the model has patterns".to_owned());
    }
    match facts.rule_sets.fault(facts.graph, RuleSetId::Gradient) {
        None => {
            let surrogate = match rounding(facts.graph).is_empty() {
                true => "",
                false => " (where it rounds to integers a surrogate)",
            };
            (
                find("integrated_gradients"),
                format!(
                    "every operation of the network has a gradient{surrogate}, and the model has no patterns"
                ),
            )
        }
        Some(fault) => (
            find("occlusion"),
            format!(
                "it needs forward passes alone, and the network has no gradient: {}",
                excerpt(&fault)
            ),
        ),
    }
}

/// A method whose rule set the model does not support, as it is asked for. Takes up to seconds, as
/// [`obstacle`].
pub fn undefined(parameters: &Parameters, facts: &Facts<'_>) -> Option<Fault> {
    // What it is not defined at is told when its graph is derived.
    if lrp::is_attn_lrp(parameters) {
        return None;
    }
    let reason = facts.rule_sets.fault(facts.graph, parameters.rule_set?)?;
    let message = format!(
        "{} does not apply to model {}: {reason}",
        parameters.method.id, facts.model
    );
    let others = applicable(facts).map(|method| method.id);
    Some(Fault::new("method", message, others))
}

/// The methods that work with a model.
pub fn applicable<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'static Method> + use<'a> {
    let facts = *facts;
    METHODS
        .iter()
        .filter(move |method| obstacle(method, &facts).is_none())
}

/// A value that is no method's id.
pub fn unknown(value: &Value) -> Fault {
    let ids = || METHODS.iter().map(|method| method.id).chain([AUTO]);
    let meant = meant(value.as_str().unwrap_or_default(), ids());
    let message = format!("no method is called {}{meant}", shown(value));
    Fault::new("method", message, ids())
}

impl Parameters {
    /// Resolves what was given (texts or JSON values, by name, `method` among them) against the
    /// defaults of method and model. Without `method`, or with [`AUTO`], it is that of [`auto`].
    pub fn parse(given: &Map<String, Value>, facts: &Facts<'_>) -> Result<Self, Faults> {
        let given = renamed(given.clone());
        let (method, choice) = match given.get("method").map(Value::as_str) {
            None | Some(Some(AUTO)) => {
                let (method, choice) = auto(facts);
                (method, Some(choice))
            }
            Some(id) => (id.and_then(find), None),
        };
        let Some(method) = method else {
            let value = given.get("method").unwrap_or(&Value::Null);
            return Err(unknown(value).into());
        };
        let base = given.get("base").and_then(Value::as_str).and_then(base);
        let parameters = Self::resolve(method, base, choice, &given, facts);
        let mut methods = [Some(method), base].into_iter().flatten();
        let without_attention = methods.find_map(|method| attention_fault(method, facts));
        match (parameters, without_attention) {
            (Ok(parameters), None) => Ok(parameters),
            (parameters, fault) => {
                let mut faults = parameters.err().unwrap_or_default();
                faults.extend(fault);
                Err(faults)
            }
        }
    }
}

/// Attention is asked for, of a model that has none of that kind.
fn attention_fault(method: &Method, facts: &Facts<'_>) -> Option<Fault> {
    let reason = method.attention_fault(facts.attention.map(AsRef::as_ref))?;
    let message = format!("{} does not apply: {reason}", method.id);
    let others = applicable(facts).map(|method| method.id);
    Some(Fault::new("method", message, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_names_and_colours_of_their_own() {
        for (at, method) in METHODS.iter().enumerate() {
            assert!(
                method.short.chars().count() <= 20,
                "{} does not fit over a picture",
                method.short
            );
            let others = &METHODS[at + 1..];
            assert!(
                others
                    .iter()
                    .all(|other| other.short != method.short && other.color != method.color),
                "{}",
                method.id
            );
        }
    }
}
