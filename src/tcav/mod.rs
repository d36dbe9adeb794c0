//! Testing with concept activation vectors: does a layer's direction of a concept raise the logit of
//! a class? Kim et al. 2018, sections 3.2 to 3.5; as a measure of other methods, Yang & Kim 2019
//! (BAM), appendix F. The job kind `tcav` asks the model; this room holds what follows from its
//! answers.

pub mod cav;
pub mod draws;
pub mod findings;
pub mod report;
pub mod significance;
