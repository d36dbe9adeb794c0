//! Whole nets against stored answers of other programs; the scripts that made them stand beside
//! them (generate.py, cam.py, families.py, pretrained.py, captum_maps.py, curves.py, lrp.py, metrics.py,
//! parameters.py, perturbation.py, regions.py, tcav.py).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod cam;
mod captum;
mod curves;
mod explain;
mod families;
mod forward;
mod lrp;
mod metrics;
mod parameters;
mod perturbation;
mod pretrained;
mod randomisation;
mod regions;
mod session;
mod small;
mod stored;
mod stress;
mod tcav;
mod torchvision;
mod training;
mod xrai;
