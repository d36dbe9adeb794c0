//! Runs methods and metrics and answers their questions. Several runs are stepped together, on the
//! pool, and a point that several of them ask for is evaluated once. The clean input is evaluated
//! once, for predictions, targets, and as the start of incremental passes.

mod coalesce;
mod error;
mod explain;
mod prepare;

use std::{mem, sync::Arc};

use futures::{future::try_join_all, try_join};
use tokio::sync::OnceCell;

use crate::{
    engine::{Caller, Engine, EngineError, Evaluated, GraphKey, Point, Row},
    incremental::{CachedActivations, Plan},
    methods::{
        Answer, Answers, Prediction, Question, Request, Run, Step, Timing, registry::applicable,
    },
    model::{Model, support_store::SupportStore},
    picture::baseline::ImageSource,
    pool::{Pool, WorkPanicked},
    tensor::Tensor,
};
use coalesce::{Query, distribute, merge, same};
pub use error::DriverError;
pub use explain::{Explanations, check_classes, cost, model_defaults};
use onnx_autodiff::autodiff::{DeriveError, spec::DeriveSpec};

/// What a driver works with, and the caller it works for.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    pub engine: &'a Engine,
    /// Executes the steps of runs.
    pub pool: &'a Pool,
    pub caller: &'a Caller,
    /// The data sets for baselines of the form `dataset:<id>`.
    pub pictures: Option<&'a Arc<dyn ImageSource>>,
    /// The models of methods that need supports.
    pub supports: Option<&'a SupportStore>,
    /// Whether LRP may have the composite attn_lrp.
    pub attn_lrp: bool,
}

/// Rows that the engine evaluated, and the time they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    pub evaluations: usize,
    pub timing: Timing,
}

impl Effort {
    fn add(&mut self, other: &Effort) {
        self.evaluations += other.evaluations;
        self.timing.add(&other.timing);
    }
}

/// The outputs of runs.
#[derive(Debug)]
pub struct Driven<T> {
    /// The output of each run, in order, with the effort it would have needed alone.
    pub outputs: Vec<(T, Effort)>,
    /// The effort of all runs; shared rows count once.
    pub effort: Effort,
}

/// Answers questions about one input of one model.
pub struct Driver<'a> {
    resources: Resources<'a>,
    model: Arc<Model>,
    /// Without batch axis.
    input: Arc<Tensor>,
    /// The row of `input`, with the activations that `incremental` starts from.
    clean: OnceCell<Row>,
    /// How inputs near `input` are evaluated; `None` for those of a network that cannot be cut.
    incremental: OnceCell<Option<Arc<Plan>>>,
}

impl<'a> Driver<'a> {
    pub fn new(resources: Resources<'a>, model: &Arc<Model>, input: Arc<Tensor>) -> Self {
        Self {
            resources,
            model: model.clone(),
            input,
            clean: OnceCell::new(),
            incremental: OnceCell::new(),
        }
    }

    /// Answers questions about nearby inputs by incremental inference, if there is a plan. Without
    /// one, explaining makes that of its methods.
    pub fn incrementally(self, plan: Option<Arc<Plan>>) -> Self {
        Self {
            incremental: plan
                .map_or_else(OnceCell::new, |plan| OnceCell::new_with(Some(Some(plan)))),
            ..self
        }
    }

    fn plan(&self) -> Option<&Arc<Plan>> {
        self.incremental.get()?.as_ref()
    }

    /// The `count` classes with the highest scores.
    pub async fn predict(&self, count: usize) -> Result<(Vec<Prediction>, Timing), DriverError> {
        explain::check_shape(&self.model, &self.input)?;
        let (row, effort) = self.clean_row().await?;
        Ok((Prediction::best(&self.model, row, count), effort.timing))
    }

    /// Drives runs to their outputs, step by step together, so that equal questions are answered
    /// once.
    pub async fn drive<T: Send + 'static>(
        &self,
        runs: Vec<Box<dyn Run<Output = T>>>,
    ) -> Result<Driven<T>, DriverError> {
        let mut tasks: Vec<Task<T>> = runs.into_iter().map(Task::new).collect();
        let mut effort = Effort::default();
        loop {
            let steps = tasks.into_iter().map(|task| task.step(self.resources.pool));
            tasks = try_join_all(steps).await?;
            if tasks.iter().all(|task| task.output.is_some()) {
                break;
            }
            effort.add(&self.answer(&mut tasks).await?);
        }
        let output = |task: Task<T>| Some((task.output?, task.effort));
        Ok(Driven {
            outputs: tasks.into_iter().filter_map(output).collect(),
            effort,
        })
    }

    /// Answers the questions of all tasks; returns the effort, in which shared rows count once.
    async fn answer<T>(&self, tasks: &mut [Task<T>]) -> Result<Effort, DriverError> {
        let (mut rows, mut explanations) = (Vec::new(), Vec::new());
        let mut nearby: Vec<Nearby> = Vec::new();
        for (number, task) in tasks.iter_mut().enumerate() {
            for (question, asked) in mem::take(&mut task.questions).into_iter().enumerate() {
                let place = (number, question);
                match (asked, self.plan()) {
                    (
                        Question::Rows {
                            graph,
                            points,
                            nearby: true,
                        },
                        Some(plan),
                    ) if plan.is_of(&graph) => {
                        match nearby.iter_mut().find(|other| other.is_about(&points)) {
                            Some(other) => other.places.push(place),
                            None => nearby.push(Nearby {
                                places: vec![place],
                                plan: plan.clone(),
                                start: task.activations.take(),
                                points,
                            }),
                        }
                    }
                    (Question::Rows { graph, points, .. }, _) => {
                        rows.push((place, Query { graph, points }));
                    }
                    (
                        Question::Explain {
                            model,
                            input,
                            request,
                        },
                        _,
                    ) => explanations.push((place, (model, input), request)),
                }
            }
        }
        let nearby = nearby.into_iter().map(|asked| async move {
            let near = self.near(&asked.plan, asked.start, asked.points).await?;
            Ok((asked.places, near))
        });
        let ((mut answers, mut total), nearby, (explained, spent)) = try_join!(
            self.rows(rows),
            try_join_all(nearby),
            self.explanations(explanations)
        )?;
        total.add(&spent);
        answers.extend(explained);
        for (places, (rows, activations, spent)) in nearby {
            total.add(&spent);
            if let Some((first, _)) = places.first() {
                tasks[*first].activations = activations;
            }
            let answer = |place| (place, Answer::Rows(rows.clone()), spent);
            answers.extend(places.into_iter().map(answer));
        }
        answers.sort_by_key(|(place, ..)| *place);
        for ((task, _), answer, spent) in answers {
            tasks[task].effort.add(&spent);
            tasks[task].answers.0.push(answer);
        }
        Ok(total)
    }

    /// Answers queries for rows; equal points are evaluated once.
    async fn rows(&self, asked: Vec<(Place, Query)>) -> Result<Answered, DriverError> {
        let (places, queries): (Vec<Place>, Vec<Query>) = asked.into_iter().unzip();
        let unknown = |query: &Query| {
            let points = query.points.iter();
            points
                .filter(|point| self.known(&query.graph, point).is_none())
                .count()
        };
        let evaluations: Vec<usize> = queries.iter().map(unknown).collect();
        let batches = merge(&queries);
        let evaluated = batches
            .iter()
            .map(|batch| self.evaluate(&batch.graph, batch.points.clone()));
        let (rows, spent): (Vec<_>, Vec<_>) = try_join_all(evaluated).await?.into_iter().unzip();
        let mut total = Effort::default();
        spent.iter().for_each(|spent| total.add(spent));
        let rows = distribute(&queries, &batches, rows);
        let answers = rows.into_iter().enumerate().map(|(query, rows)| {
            self.keep_clean(&queries[query], &rows);
            let mut effort = Effort {
                evaluations: evaluations[query],
                ..Effort::default()
            };
            let serving = batches.iter().zip(&spent);
            for (_, spent) in serving.filter(|(batch, _)| batch.serves(query)) {
                effort.timing.add(&spent.timing);
            }
            (places[query], Answer::Rows(rows), effort)
        });
        Ok((answers.collect(), total))
    }

    /// Evaluates nearby inputs incrementally, from `start` or the clean input; returns their rows
    /// and the activations that the next ones start from.
    async fn near(
        &self,
        plan: &Plan,
        start: Option<CachedActivations>,
        points: Vec<Point>,
    ) -> Result<(Vec<Row>, Option<CachedActivations>, Effort), DriverError> {
        let mut effort = Effort::default();
        let mut cached = match start {
            Some(cached) => Some(cached),
            None => {
                let (row, spent) = self.clean_row().await?;
                effort = spent;
                plan.start(&self.input, row)
            }
        };
        let Resources { engine, caller, .. } = self.resources;
        if let Some(activations) = &mut cached
            && let Some(found) = plan.evaluate(engine, caller, activations, &points).await?
        {
            effort.add(&effort_of(&found));
            return Ok((found.rows, cached, effort));
        }
        let graph = GraphKey::new(self.model.clone(), DeriveSpec::forward());
        let (rows, spent) = self.evaluate(&graph, points).await?;
        effort.add(&spent);
        Ok((rows, cached, effort))
    }

    /// Answers requests for explanations; those for the same model and input together.
    async fn explanations(
        &self,
        asked: Vec<(Place, ModelInput, Request)>,
    ) -> Result<Answered, DriverError> {
        let mut groups: Vec<(ModelInput, Vec<(Place, Request)>)> = Vec::new();
        for (place, (model, input), request) in asked {
            let same = groups
                .iter_mut()
                .find(|group| Arc::ptr_eq(&group.0.0, &model) && Arc::ptr_eq(&group.0.1, &input));
            match same {
                Some((_, requests)) => requests.push((place, request)),
                None => groups.push(((model, input), vec![(place, request)])),
            }
        }
        let explained = groups
            .into_iter()
            .map(|((model, input), requests)| async move {
                let (places, requests): (Vec<Place>, Vec<Request>) = requests.into_iter().unzip();
                let is_this = Arc::ptr_eq(&model, &self.model) && Arc::ptr_eq(&input, &self.input);
                let explained = if is_this {
                    self.explain_boxed(&requests).await?
                } else {
                    let other = Driver::new(self.resources, &model, input);
                    other.explain_boxed(&requests).await?
                };
                Ok::<_, DriverError>((places, explained))
            });
        let (mut answers, mut total) = (Vec::new(), Effort::default());
        for (places, found) in try_join_all(explained).await? {
            total.add(&Effort {
                evaluations: found.evaluations,
                timing: found.timing,
            });
            for (place, explained) in places.into_iter().zip(found.explained) {
                let mut effort = Effort::default();
                for one in &explained {
                    effort.add(&Effort {
                        evaluations: one.evaluations,
                        timing: one.timing,
                    });
                }
                answers.push((place, Answer::Explained(explained), effort));
            }
        }
        Ok((answers, total))
    }

    /// Evaluates points on one graph. A known row of the clean input is reused.
    async fn evaluate(
        &self,
        graph: &GraphKey,
        points: Vec<Point>,
    ) -> Result<(Vec<Row>, Effort), DriverError> {
        let known = points.iter().map(|point| self.known(graph, point));
        let known: Vec<Option<Row>> = known
            .map(|row| {
                row.map(|row| Row {
                    activations: Vec::new(),
                    ..row.clone()
                })
            })
            .collect();
        let asked = points.into_iter().zip(&known);
        let asked = asked.filter_map(|(point, known)| known.is_none().then_some(point));
        let Resources { engine, caller, .. } = self.resources;
        let found = engine
            .evaluate(&graph.model, &graph.spec, asked.collect(), caller)
            .await;
        let found = match found {
            Err(EngineError::Derive(fault)) => {
                return Err(self.or_others(&graph.model, fault).await?);
            }
            found => found?,
        };
        let effort = effort_of(&found);
        let mut found = found.rows.into_iter();
        let rows = known
            .into_iter()
            .map(|known| known.or_else(|| found.next()));
        Ok((rows.flatten().collect(), effort))
    }

    /// Names the methods that apply where a network is in the way of one.
    async fn or_others(
        &self,
        model: &Arc<Model>,
        fault: Arc<DeriveError>,
    ) -> Result<DriverError, DriverError> {
        if matches!(
            *fault,
            DeriveError::NoPatterns
                | DeriveError::Patterns { .. }
                | DeriveError::PatternFile { .. }
        ) {
            return Ok(EngineError::Derive(fault).into());
        }
        self.undefined(model, fault.to_string()).await
    }

    /// Why a method does not work, and which do.
    async fn undefined(
        &self,
        model: &Arc<Model>,
        reason: String,
    ) -> Result<DriverError, DriverError> {
        let asked = model.clone();
        let others = move || {
            let methods = applicable(&model_defaults(&asked)).map(|method| method.id);
            methods.collect()
        };
        Ok(DriverError::Undefined {
            model: model.id.clone(),
            reason,
            methods: self.resources.pool.run(others).await?,
        })
    }

    /// The row of a point that is the clean input, where it is known.
    fn known(&self, graph: &GraphKey, point: &Point) -> Option<&Row> {
        let is_clean = Arc::ptr_eq(&point.input, &self.input) && self.is_model(graph);
        self.clean
            .get()
            .filter(|_| is_clean && graph.spec == DeriveSpec::forward())
    }

    /// The row of the clean input, evaluated by the forward graph unless it is known. Fails if the
    /// row is not finite.
    async fn clean_row(&self) -> Result<(&Row, Effort), DriverError> {
        let mut effort = Effort::default();
        let evaluate = async {
            let spec = DeriveSpec {
                outputs: self.plan().map_or_else(Vec::new, |plan| plan.values()),
                ..DeriveSpec::forward()
            };
            let graph = GraphKey::new(self.model.clone(), spec);
            let point = Point::forward(self.input.clone());
            let (rows, spent) = self.evaluate(&graph, vec![point]).await?;
            effort = spent;
            rows.into_iter().next().ok_or_else(|| self.not_finite())
        };
        let row = self.clean.get_or_try_init(|| evaluate).await?;
        match row.is_finite() {
            true => Ok((row, effort)),
            false => Err(self.not_finite()),
        }
    }

    /// Keeps the row of the clean input if a run asked for it. Not with incremental inference,
    /// whose row of the clean input needs activations.
    fn keep_clean(&self, Query { graph, points }: &Query, rows: &[Row]) {
        if self.plan().is_some() || !self.is_model(graph) || self.clean.initialized() {
            return;
        }
        let at = points
            .iter()
            .position(|point| Arc::ptr_eq(&point.input, &self.input));
        if let Some(row) = at.and_then(|at| rows.get(at)) {
            // Another task may have set it meanwhile.
            let _ = self.clean.set(Row {
                cotangents: Vec::new(),
                activations: Vec::new(),
                ..row.clone()
            });
        }
    }

    fn is_model(&self, graph: &GraphKey) -> bool {
        Arc::ptr_eq(&graph.model, &self.model)
    }

    fn not_finite(&self) -> DriverError {
        DriverError::NotFinite {
            model: self.model.id.clone(),
        }
    }
}

/// The index of a task, and of one of its questions.
type Place = (usize, usize);

/// A question about nearby inputs, of all tasks that ask it.
struct Nearby {
    places: Vec<Place>,
    plan: Arc<Plan>,
    /// What the first of them starts from.
    start: Option<CachedActivations>,
    points: Vec<Point>,
}

impl Nearby {
    fn is_about(&self, points: &[Point]) -> bool {
        let mut pairs = self.points.iter().zip(points);
        self.points.len() == points.len() && pairs.all(|(one, other)| same(one, other))
    }
}

/// A model and an input of it.
type ModelInput = (Arc<Model>, Arc<Tensor>);

/// Answers, each with the effort it would have needed alone, and the effort of all.
type Answered = (Vec<(Place, Answer, Effort)>, Effort);

fn effort_of(found: &Evaluated) -> Effort {
    Effort {
        evaluations: found.rows.len(),
        timing: Timing {
            queue: found.queue,
            model: found.model,
        },
    }
}

/// A run in progress.
struct Task<T> {
    run: Box<dyn Run<Output = T>>,
    /// Answers for the next step.
    answers: Answers,
    questions: Vec<Question>,
    output: Option<T>,
    effort: Effort,
    /// The start of its next incremental pass; `None` before its first.
    activations: Option<CachedActivations>,
}

impl<T: Send + 'static> Task<T> {
    fn new(run: Box<dyn Run<Output = T>>) -> Self {
        Self {
            run,
            answers: Answers::none(),
            questions: Vec::new(),
            output: None,
            effort: Effort::default(),
            activations: None,
        }
    }

    /// Steps the run, on the pool, unless it has ended. Consumes the answers.
    async fn step(mut self, pool: &Pool) -> Result<Self, WorkPanicked> {
        if self.output.is_some() {
            return Ok(self);
        }
        let step = move || {
            match self.run.step(mem::take(&mut self.answers)) {
                Step::Ask(questions) => self.questions = questions,
                Step::Done(output) => self.output = Some(output),
            }
            self
        };
        pool.run(step).await
    }
}

#[cfg(test)]
mod tests;
