//! The scheduling policy as a plain struct, without threads, channels or clocks. A lane queues the
//! rows of one graph and one priority. Interactive lanes go before lanes of jobs; lanes of equal
//! priority take turns (round robin). In an interactive lane the caller with the shortest remaining
//! processing time is first, ties by arrival; callers of jobs take turns by batches.

use std::{
    collections::{HashSet, VecDeque},
    iter,
    ops::Range,
    sync::Arc,
    time::Instant,
};

use super::{Caller, Priority};

/// The number of a queued request, given by the dispatcher.
pub(super) type RequestId = u64;

/// Why a request is dropped from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    Cancelled,
    DeadlineExceeded,
}

/// A row of a batch: row `index` of `request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchRow {
    pub request: RequestId,
    pub index: usize,
}

/// The queue. `G` identifies the graph of a lane; rows of equal graphs share batches.
#[derive(Debug)]
pub(super) struct Lanes<G> {
    limit_rows: usize,
    waiting_rows: usize,
    /// Lanes in the order of their turns.
    lanes: VecDeque<Lane<G>>,
}

#[derive(Debug)]
struct Lane<G> {
    graph: Arc<G>,
    priority: Priority,
    rows: usize,
    /// Callers in the order of their turns, each with its requests in the order of their arrival.
    callers: VecDeque<(u64, VecDeque<Waiting>)>,
}

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    caller: Caller,
    /// Indices of the rows that no batch has taken yet.
    rows: Range<usize>,
}

impl Caller {
    fn lapse(&self, now: Instant) -> Option<Lapse> {
        if self.cancel.is_cancelled() {
            Some(Lapse::Cancelled)
        } else {
            self.deadline
                .is_some_and(|deadline| deadline <= now)
                .then_some(Lapse::DeadlineExceeded)
        }
    }
}

impl<G: PartialEq> Lanes<G> {
    pub(super) fn new(limit_rows: usize) -> Self {
        Self {
            limit_rows,
            waiting_rows: 0,
            lanes: VecDeque::new(),
        }
    }

    pub(super) fn limit_rows(&self) -> usize {
        self.limit_rows
    }

    pub(super) fn waiting_rows(&self) -> usize {
        self.waiting_rows
    }

    /// Whether `rows` more may wait. Each priority has a limit of its own, so that jobs do not keep
    /// interactive requests out. A request larger than the limit is accepted when no row of its
    /// priority waits; otherwise it could never run.
    pub(super) fn has_room(&self, rows: usize, priority: Priority) -> bool {
        let waiting: usize = self
            .lanes
            .iter()
            .filter(|lane| lane.priority == priority)
            .map(|lane| lane.rows)
            .sum();
        waiting == 0 || waiting + rows <= self.limit_rows
    }

    /// Puts the rows at the end of their caller's queue.
    pub(super) fn push(&mut self, request: RequestId, graph: &Arc<G>, caller: Caller, rows: usize) {
        let (id, priority) = (caller.id, caller.priority);
        let waiting = Waiting {
            request,
            caller,
            rows: 0..rows,
        };
        let at = self.position(graph, priority).unwrap_or_else(|| {
            let lane = Lane {
                graph: graph.clone(),
                priority,
                rows: 0,
                callers: VecDeque::new(),
            };
            self.lanes.push_back(lane);
            self.lanes.len() - 1
        });
        if let Some(lane) = self.lanes.get_mut(at) {
            lane.rows += rows;
            match lane.callers.iter_mut().find(|(caller, _)| *caller == id) {
                Some((_, queue)) => queue.push_back(waiting),
                None => lane.callers.push_back((id, [waiting].into())),
            }
            self.waiting_rows += rows;
        }
    }

    fn position(&self, graph: &Arc<G>, priority: Priority) -> Option<usize> {
        self.lanes
            .iter()
            .position(|lane| lane.priority == priority && lane.graph == *graph)
    }

    /// Drops the waiting rows of `request`.
    pub(super) fn remove(&mut self, request: RequestId) {
        self.retain(|waiting| waiting.request != request);
    }

    /// Drops and returns requests whose caller is gone or whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(RequestId, Lapse)> {
        let mut lapsed = Vec::new();
        self.retain(|waiting| match waiting.caller.lapse(now) {
            Some(lapse) => {
                lapsed.push((waiting.request, lapse));
                false
            }
            None => true,
        });
        lapsed
    }

    fn retain(&mut self, mut keep: impl FnMut(&Waiting) -> bool) {
        for lane in &mut self.lanes {
            for (_, queue) in &mut lane.callers {
                queue.retain(|waiting| {
                    let kept = keep(waiting);
                    if !kept {
                        lane.rows -= waiting.rows.len();
                        self.waiting_rows -= waiting.rows.len();
                    }
                    kept
                });
            }
            lane.callers.retain(|(_, queue)| !queue.is_empty());
        }
        self.lanes.retain(|lane| lane.rows > 0);
    }

    /// The next lane among those whose graph `can_run`, and the number of its waiting rows.
    pub(super) fn next(
        &self,
        can_run: impl Fn(&Arc<G>) -> bool,
    ) -> Option<(Arc<G>, Priority, usize)> {
        let mut lanes = self.lanes.iter().filter(|lane| can_run(&lane.graph));
        let first = lanes.next()?;
        let interactive = iter::once(first)
            .chain(lanes)
            .find(|lane| lane.priority == Priority::Interactive);
        let lane = interactive.unwrap_or(first);
        Some((lane.graph.clone(), lane.priority, lane.rows))
    }

    /// Forms a batch of at most `budget` rows of a lane, and moves the lane to the end of the
    /// order. `left` gives a caller's remaining rows, in the queue or not.
    pub(super) fn take(
        &mut self,
        graph: &Arc<G>,
        priority: Priority,
        budget: usize,
        left: impl Fn(u64) -> usize,
    ) -> Vec<BatchRow> {
        let Some(mut lane) = self
            .position(graph, priority)
            .and_then(|at| self.lanes.remove(at))
        else {
            return Vec::new();
        };
        if priority == Priority::Interactive {
            lane.callers
                .make_contiguous()
                .sort_by_key(|(id, _)| left(*id));
        }
        let size = lane.rows.min(budget.max(1));
        let mut batch = Vec::with_capacity(size);
        while batch.len() < size
            && let Some((_, queue)) = lane.callers.front_mut()
        {
            if let Some(waiting) = queue.front_mut()
                && let Some(index) = waiting.rows.next()
            {
                batch.push(BatchRow {
                    request: waiting.request,
                    index,
                });
            }
            if queue.front().is_some_and(|waiting| waiting.rows.is_empty()) {
                queue.pop_front();
            }
            if queue.is_empty() {
                lane.callers.pop_front();
            }
        }
        if priority == Priority::Job && !lane.callers.is_empty() {
            lane.callers.rotate_left(1);
        }
        lane.rows -= batch.len();
        self.waiting_rows -= batch.len();
        if lane.rows > 0 {
            self.lanes.push_back(lane);
        }
        batch
    }

    /// Drops a graph's rows of all priorities, and returns their requests.
    pub(super) fn drop_graph(&mut self, graph: &Arc<G>) -> HashSet<RequestId> {
        let lanes = self.lanes.iter().filter(|lane| lane.graph == *graph);
        let requests: HashSet<RequestId> = lanes
            .flat_map(|lane| &lane.callers)
            .flat_map(|(_, queue)| queue)
            .map(|waiting| waiting.request)
            .collect();
        self.retain(|waiting| !requests.contains(&waiting.request));
        requests
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use tokio_util::sync::CancellationToken;

    use super::*;

    fn caller(id: u64, priority: Priority) -> Caller {
        Caller {
            id,
            priority,
            cancel: CancellationToken::new(),
            deadline: None,
        }
    }

    fn next_batch(lanes: &mut Lanes<&'static str>, budget: usize) -> Vec<(RequestId, usize)> {
        let Some((graph, priority, _)) = lanes.next(|_| true) else {
            return Vec::new();
        };
        lanes
            .take(&graph, priority, budget, |_| 0)
            .iter()
            .map(|row| (row.request, row.index))
            .collect()
    }

    #[test]
    fn the_caller_with_the_least_left_is_first_then_the_one_that_came_first() {
        let mut lanes = Lanes::new(100);
        let graph = Arc::new("g");
        let left = HashMap::from([(10, 7), (20, 3), (30, 3)]);
        lanes.push(1, &graph, caller(10, Priority::Interactive), 2);
        lanes.push(2, &graph, caller(20, Priority::Interactive), 2);
        lanes.push(3, &graph, caller(10, Priority::Interactive), 1);
        lanes.push(4, &graph, caller(30, Priority::Interactive), 1);
        let mut take = || -> Vec<(RequestId, usize)> {
            let batch = lanes.take(&graph, Priority::Interactive, 2, |id| left[&id]);
            batch.iter().map(|row| (row.request, row.index)).collect()
        };
        assert_eq!(
            [take(), take(), take()],
            [
                vec![(2, 0), (2, 1)],
                vec![(4, 0), (1, 0)],
                vec![(1, 1), (3, 0)]
            ]
        );
        assert_eq!(
            (lanes.waiting_rows(), lanes.next(|_| true).is_none()),
            (0, true)
        );
    }

    #[test]
    fn jobs_take_turns_by_batches() {
        let mut lanes = Lanes::new(100);
        let graph = Arc::new("g");
        lanes.push(1, &graph, caller(1, Priority::Job), 5);
        lanes.push(2, &graph, caller(2, Priority::Job), 3);
        let turns: Vec<Vec<(RequestId, usize)>> =
            (0..4).map(|_| next_batch(&mut lanes, 2)).collect();
        assert_eq!(
            turns,
            [
                vec![(1, 0), (1, 1)],
                vec![(2, 0), (2, 1)],
                vec![(1, 2), (1, 3)],
                vec![(2, 2), (1, 4)]
            ]
        );
    }

    #[test]
    fn a_batch_is_as_large_as_it_may_be() {
        let mut lanes = Lanes::new(100);
        lanes.push(1, &Arc::new("g"), caller(1, Priority::Interactive), 25);
        let sizes: Vec<usize> = (0..4).map(|_| next_batch(&mut lanes, 8).len()).collect();
        assert_eq!(sizes, [8, 8, 8, 1]);
    }

    #[test]
    fn interactive_rows_go_before_jobs_and_lanes_take_turns() {
        let mut lanes = Lanes::new(100);
        lanes.push(1, &Arc::new("a"), caller(1, Priority::Job), 2);
        lanes.push(2, &Arc::new("a"), caller(2, Priority::Interactive), 4);
        lanes.push(3, &Arc::new("b"), caller(3, Priority::Interactive), 2);
        let order: Vec<RequestId> = (0..4).map(|_| next_batch(&mut lanes, 2)[0].0).collect();
        assert_eq!(order, [2, 3, 2, 1]);
    }

    #[test]
    fn rows_of_callers_who_left_are_dropped() {
        let mut lanes = Lanes::new(100);
        let graph = Arc::new("g");
        let (gone, mut late, now) = (
            caller(1, Priority::Interactive),
            caller(2, Priority::Interactive),
            Instant::now(),
        );
        late.deadline = Some(now);
        lanes.push(1, &graph, gone.clone(), 3);
        lanes.push(2, &graph, late, 3);
        lanes.push(3, &graph, caller(3, Priority::Interactive), 2);
        gone.cancel.cancel();
        assert_eq!(
            lanes.expire(now),
            [(1, Lapse::Cancelled), (2, Lapse::DeadlineExceeded)]
        );
        assert_eq!(lanes.waiting_rows(), 2);
        lanes.remove(3);
        assert!(lanes.next(|_| true).is_none());
    }

    #[test]
    fn a_deadline_to_come_keeps_the_rows() {
        let mut lanes = Lanes::new(100);
        let now = Instant::now();
        let patient = Caller {
            deadline: Some(now + Duration::from_secs(1)),
            ..caller(1, Priority::Interactive)
        };
        lanes.push(1, &Arc::new("g"), patient, 1);
        assert!(lanes.expire(now).is_empty());
    }

    #[test]
    fn admission_counts_rows_and_takes_one_giant_alone() {
        let mut lanes = Lanes::new(4);
        let room = |lanes: &Lanes<_>, rows| lanes.has_room(rows, Priority::Interactive);
        assert!(room(&lanes, 9));
        lanes.push(1, &Arc::new("g"), caller(1, Priority::Interactive), 3);
        assert!(room(&lanes, 1) && !room(&lanes, 2));
        lanes.push(2, &Arc::new("g"), caller(2, Priority::Job), 9);
        assert!(room(&lanes, 1) && !lanes.has_room(1, Priority::Job));
    }

    #[test]
    fn a_graph_that_cannot_run_loses_all_its_requests() {
        let mut lanes = Lanes::new(100);
        lanes.push(1, &Arc::new("bad"), caller(1, Priority::Interactive), 1);
        lanes.push(2, &Arc::new("bad"), caller(1, Priority::Job), 1);
        lanes.push(3, &Arc::new("good"), caller(1, Priority::Job), 1);
        assert_eq!(lanes.drop_graph(&Arc::new("bad")), [1, 2].into());
        assert_eq!(lanes.waiting_rows(), 1);
    }
}
