//! What a job may cost: compared with the settings before anything is queued. A refusal says the
//! numbers and what to lower.

use crate::{app::App, jobs::JobError};

/// The parameter that says how many images are used.
const LIMIT: &str = "limit";

/// Refuses work of `image` evaluations for each of `images`. `lower` are the parameters that an
/// image's cost depends on, with values that would do where those are known.
pub(super) fn check_evaluations(
    app: &App,
    image: usize,
    images: usize,
    lower: impl FnOnce(u64) -> Vec<(&'static str, Option<String>)>,
) -> Result<(), JobError> {
    let (image, images) = (image as u64, images as u64);
    let lower = check_turn(app, "each image costs", image, lower)?;
    check_total(app, image.saturating_mul(images), |most| {
        let mut lower = lower(most / images.max(1));
        lower.insert(0, (LIMIT, at_most(most / image.max(1))));
        lower
    })
}

/// Refuses more evaluations than a worker takes at a turn; `what` costs `found`. Hands `lower` back.
pub(super) fn check_turn<L: FnOnce(u64) -> Vec<(&'static str, Option<String>)>>(
    app: &App,
    what: &'static str,
    found: u64,
    lower: L,
) -> Result<L, JobError> {
    let most = app.settings().max_image_evaluations;
    if found > most {
        return Err(JobError::TooCostly {
            what,
            found,
            unit: "evaluations",
            most,
            setting: "max_image_evaluations",
            lower: lower(most),
        });
    }
    Ok(lower)
}

/// Refuses a job of more evaluations than are allowed. `lower` says what to lower where it may cost
/// so many.
pub(super) fn check_total(
    app: &App,
    found: u64,
    lower: impl FnOnce(u64) -> Vec<(&'static str, Option<String>)>,
) -> Result<(), JobError> {
    let most = app.settings().max_job_evaluations;
    if found > most {
        let (what, setting) = ("the job costs", "max_job_evaluations");
        return Err(JobError::TooCostly {
            what,
            found,
            unit: "evaluations",
            most,
            setting,
            lower: lower(most),
        });
    }
    Ok(())
}

/// Adds up what each image may come to in the store of files. Refuses at the first image that is
/// too many: what `bytes_of` reads is bounded by what is allowed.
pub(super) fn check_output<T>(
    app: &App,
    images: &[T],
    bytes_of: impl Fn(&T) -> u64,
) -> Result<Vec<u64>, JobError> {
    let most = app.settings().max_job_output_bytes;
    let (mut found, mut each) = (0_u64, Vec::with_capacity(images.len()));
    for (count, image) in images.iter().enumerate() {
        let bytes = bytes_of(image);
        found = found.saturating_add(bytes);
        if found > most {
            let what = "the job may write more than it is allowed:";
            let lower = vec![(LIMIT, at_most(count as u64))];
            return Err(JobError::TooCostly {
                what,
                found,
                unit: "bytes or more",
                most,
                setting: "max_job_output_bytes",
                lower,
            });
        }
        each.push(bytes);
    }
    Ok(each)
}

/// Nothing would do where even one is too much.
pub(super) fn at_most(number: u64) -> Option<String> {
    (number > 0).then(|| format!("1 to {number}"))
}
