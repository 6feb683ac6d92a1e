//! Packing: rows of many lengths into one flat stream without padding, a common prefix only once.
//!
//! Rows of one group (questions about the same night, several routes of the same question) begin with the same tokens. They are
//! packed as a tree: the prefix as one segment, then one branch per row that sees the whole prefix. Positions in a branch
//! continue from the prefix, so that every token computes exactly what it would in its own row; the prefix is paid for once.
//!
//! ```text
//! rows    n n n n n q a a        stream  n n n n n | q a a | p b | r r c
//!         n n n n n p b          segment [ prefix  ] [ 1   ] [2 ] [ 3   ]
//!         n n n n n r r c        position 0 1 2 3 4  5 6 7   5 6   5 6 7
//! ```

use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::TokenizedRow;

/// A run of tokens that attend to each other causally, and to all of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First token in the stream.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// Start and length of the run that every token of this one sees.
    pub prefix: Option<(usize, usize)>,
}

impl Segment {
    /// Whether all tokens of the segment and of its prefix are among the first `tokens`, prefix first.
    pub(crate) fn is_inside(&self, tokens: usize) -> bool {
        let ends = |(start, len): (usize, usize), limit: usize| {
            start.checked_add(len).is_some_and(|end| end <= limit)
        };
        ends((self.start, self.len), tokens)
            && self.prefix.is_none_or(|prefix| ends(prefix, self.start))
    }
}

/// A micro-batch: a flat stream of `N` tokens and what is to be predicted from where.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The stream, `[N]`.
    pub tokens: Vec<u32>,
    /// The position of each token in its own row, `[N]`.
    pub positions: Vec<u32>,
    /// Who sees whom.
    pub segments: Vec<Segment>,
    /// Stream index of the token that predicts each target, `[M]`. One token may predict the first token of many branches.
    pub sources: Vec<u32>,
    /// What is to be predicted, `[M]`.
    pub targets: Vec<u32>,
    /// Weight of each target in the loss, `[M]`.
    pub weights: Vec<f32>,
    /// Scored targets of each row, in the order in which rows were pushed.
    pub row_targets: Vec<usize>,
    /// Runs of latent tokens, in the order of the stream.
    pub latents: Vec<Latents>,
    /// Stream indices of tokens whose hidden states an objective looks at, `[T]`.
    pub taps: Vec<u32>,
    /// For each tap whether it is a latent token that stands for a critical step; empty if no row says so.
    pub critical: Vec<bool>,
    /// Latent tokens that read the state of another token than the one before, ascending, and that token, which lies before the row: their
    /// gradients do not go there.
    pub fed: Vec<(u32, u32)>,
}

/// A run of tokens whose input is not an embedding but what the token before computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latents {
    /// First of them in the stream; never the first token of its row.
    pub start: usize,
    /// How many follow each other; at least 1.
    pub len: usize,
    /// Whether all but the first read states that are there before ([`Batch::fed`]), so that they need not wait for each other.
    pub is_forced: bool,
}

/// Tokens of a stream that can be computed together: all that they need was computed in earlier waves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wave {
    /// The tokens, as runs of the stream with what they see before.
    pub segments: Vec<Segment>,
    /// Stream indices of the wave's latent tokens. The token before each lies in an earlier wave.
    pub latents: Vec<u32>,
}

impl Wave {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

impl Batch {
    /// Number of tokens, `N`.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Sum of the weights of all targets.
    pub fn total_weight(&self) -> f64 {
        self.weights.iter().map(|w| f64::from(*w)).sum()
    }

    /// Adds one row by itself, after its teacher if it has one; then the token before the answer is tapped in both.
    pub fn push_row(&mut self, row: &TokenizedRow) {
        if !row.thoughts.is_empty() {
            self.push_thoughts(row);
            return;
        }
        if let Some(teacher) = &row.teacher {
            for row in [&**teacher, row] {
                let start = self.tokens.len();
                self.push_tree(&[row]);
                self.taps.push((start + row.answer - 1) as u32);
            }
            return;
        }
        self.push_tree(&[row]);
    }

    /// Adds a row whose latent tokens stand for steps of its teacher's rationale: for each of them that step's token is tapped, if there is a
    /// teacher, and the latent token.
    fn push_thoughts(&mut self, row: &TokenizedRow) {
        let teacher = row.teacher.as_ref().map(|teacher| {
            let start = self.tokens.len();
            self.push_tree(&[teacher]);
            start
        });
        let start = self.tokens.len() + row.latents.start;
        for (index, thought) in row.thoughts.iter().enumerate() {
            let latent = (start + index) as u32;
            if let Some(teacher) = teacher {
                let step = (teacher + thought.step) as u32;
                self.taps.push(step);
                self.critical.push(thought.critical);
                if row.is_forced && index + 1 < row.thoughts.len() {
                    self.fed.push((latent + 1, step));
                }
            }
            self.taps.push(latent);
            self.critical.push(thought.critical);
        }
        self.push_tree(&[row]);
    }

    /// The token whose state a latent token reads, and whether gradients stay away from it.
    pub(crate) fn read_by(&self, latent: u32) -> (u32, bool) {
        match self.fed.binary_search_by_key(&latent, |(at, _)| *at) {
            Ok(found) => (self.fed[found].1, true),
            Err(_) => (latent - 1, false),
        }
    }

    /// Adds rows as a tree over their longest common prefix. Rows with latent tokens share none.
    pub fn push_tree(&mut self, rows: &[&TokenizedRow]) {
        if rows.len() > 1 && rows.iter().any(|row| row.is_alone()) {
            rows.iter().for_each(|row| self.push_row(row));
            return;
        }
        let shared = shared_prefix(rows);
        let root = self.tokens.len();
        if shared > 0 {
            self.push_segment(&rows[0].tokens[..shared], 0, None);
        }
        for row in rows {
            let branch = self.tokens.len();
            let prefix = (shared > 0).then_some((root, shared));
            self.push_segment(&row.tokens[shared..], shared, prefix);
            if !row.latents.is_empty() {
                self.latents.push(Latents {
                    start: branch + row.latents.start,
                    len: row.latents.len(),
                    is_forced: row.is_forced,
                });
            }
            let before = self.targets.len();
            for (at, weight) in row.scored() {
                // The token at `at` is predicted from the one before it, which may be the end of the prefix.
                let source = if at > shared {
                    branch + at - 1 - shared
                } else {
                    root + at - 1
                };
                self.sources.push(source as u32);
                self.targets.push(row.tokens[at]);
                self.weights.push(weight);
            }
            self.row_targets.push(self.targets.len() - before);
        }
    }

    /// The stream cut where latent tokens wait for what the tokens before them compute; one wave if there are none.
    ///
    /// ```text
    /// stream  q q z z z a | p z b        z: latent
    /// wave    0 0 1 2 3 3 | 0 1 1
    /// ```
    ///
    /// Wave `k` holds the `k`-th latent token of every row, the last one of a row together with all that follows; the second wave all of those that
    /// are fed.
    pub fn waves(&self) -> Vec<Wave> {
        let mut waves = vec![Wave::default()];
        let mut runs = self.latents.iter().peekable();
        for segment in &self.segments {
            let end = segment.start + segment.len;
            let Some(run) = runs.next_if(|run| run.start < end) else {
                waves[0].segments.push(*segment);
                continue;
            };
            let own = if run.is_forced { 1 } else { run.len };
            if waves.len() <= own {
                waves.resize_with(own + 1, Wave::default);
            }
            // What the row computed before is one run, as a row with latent tokens shares no prefix.
            let part = |from: usize, to: usize| Segment {
                start: from,
                len: to - from,
                prefix: (from > segment.start).then(|| (segment.start, from - segment.start)),
            };
            waves[0].segments.push(part(segment.start, run.start));
            if run.is_forced {
                waves[1].segments.push(part(run.start, end));
                let latents = run.start as u32..(run.start + run.len) as u32;
                waves[1].latents.extend(latents);
                continue;
            }
            for index in 0..run.len {
                let at = run.start + index;
                let is_last = index + 1 == run.len;
                let wave = &mut waves[index + 1];
                wave.segments
                    .push(part(at, if is_last { end } else { at + 1 }));
                wave.latents.push(at as u32);
            }
        }
        waves
    }

    fn push_segment(&mut self, tokens: &[u32], position: usize, prefix: Option<(usize, usize)>) {
        self.segments.push(Segment {
            start: self.tokens.len(),
            len: tokens.len(),
            prefix,
        });
        self.tokens.extend_from_slice(tokens);
        self.positions
            .extend((position..position + tokens.len()).map(|p| p as u32));
    }

    /// The segments, shareable with the operations of a forward pass.
    pub fn shared_segments(&self) -> Arc<[Segment]> {
        self.segments.as_slice().into()
    }
}

/// Tokens that all rows begin with, leaving each branch at least one; nothing for a single row.
fn shared_prefix(rows: &[&TokenizedRow]) -> usize {
    let Some((first, rest)) = rows.split_first() else {
        return 0;
    };
    let common = rest
        .iter()
        .map(|row| common_prefix(&first.tokens, &row.tokens))
        .min()
        .unwrap_or(0);
    let shortest = rows.iter().map(|row| row.tokens.len()).min().unwrap_or(0);
    common.min(shortest.saturating_sub(1))
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Tokens that a tree of `rows` takes.
fn tree_len(rows: &[&TokenizedRow]) -> usize {
    let shared = shared_prefix(rows);
    shared
        + rows
            .iter()
            .map(|row| row.total_len() - shared)
            .sum::<usize>()
}

/// How rows become micro-batches.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// Most tokens in a micro-batch (a single longer row still gets one of its own).
    pub micro_batch_tokens: usize,
    /// Most rows in a micro-batch; 0: as many as fit.
    pub micro_batch_rows: usize,
    /// Most rows in one tree. Fewer mix more groups into a step; more save more prefix.
    pub tree_rows: usize,
    /// Seed of the shuffle.
    pub seed: u64,
}

impl Packing {
    /// The micro-batches of an epoch as lists of trees of row indices.
    ///
    /// Groups are shuffled, and the rows in each; the order depends only on the seed, the epoch and the rows.
    pub fn plan(&self, rows: &[TokenizedRow], epoch: u64) -> Vec<Vec<Vec<usize>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch + 1);
        let mut trees = self.trees(rows, |group| group.shuffle(&mut rng));
        trees.shuffle(&mut rng);
        self.fill(rows, trees)
    }

    /// All rows in micro-batches, in their order except that groups come together.
    pub fn in_order(&self, rows: &[TokenizedRow]) -> Vec<Vec<Vec<usize>>> {
        let trees = self.trees(rows, |_| ());
        self.fill(rows, trees)
    }

    /// Trees one after the other into micro-batches.
    fn fill(&self, rows: &[TokenizedRow], trees: Vec<Vec<usize>>) -> Vec<Vec<Vec<usize>>> {
        let mut batches: Vec<Vec<Vec<usize>>> = Vec::new();
        let (mut filled, mut filled_rows) = (0, 0);
        let most_rows = match self.micro_batch_rows {
            0 => usize::MAX,
            most => most,
        };
        for tree in trees {
            let members: Vec<&TokenizedRow> = tree.iter().map(|index| &rows[*index]).collect();
            let len = tree_len(&members);
            match batches.last_mut() {
                Some(batch)
                    if filled + len <= self.micro_batch_tokens
                        && filled_rows + tree.len() <= most_rows =>
                {
                    (filled, filled_rows) = (filled + len, filled_rows + tree.len());
                    batch.push(tree);
                }
                _ => {
                    (filled, filled_rows) = (len, tree.len());
                    batches.push(vec![tree]);
                }
            }
        }
        batches
    }

    /// Groups cut into trees that fit a micro-batch.
    fn trees(
        &self,
        rows: &[TokenizedRow],
        mut arrange: impl FnMut(&mut [usize]),
    ) -> Vec<Vec<usize>> {
        let mut by_group: Vec<usize> = (0..rows.len()).collect();
        by_group.sort_by_key(|index| rows[*index].group);
        let mut trees = Vec::new();
        for group in by_group.chunk_by_mut(|a, b| rows[*a].group == rows[*b].group) {
            arrange(group);
            let mut tree = Tree::default();
            for index in group.iter().copied() {
                let grown = tree.len_with(rows, index);
                let most_rows = match self.micro_batch_rows {
                    0 => self.tree_rows,
                    most => self.tree_rows.min(most),
                };
                let is_full = tree.members.len() >= most_rows
                    || grown > self.micro_batch_tokens
                    || rows[index].is_alone()
                    || tree
                        .members
                        .first()
                        .is_some_and(|first| rows[*first].is_alone());
                if is_full && !tree.members.is_empty() {
                    trees.push(std::mem::take(&mut tree).members);
                }
                tree.push(rows, index);
            }
            trees.push(tree.members);
        }
        trees
    }
}

/// A tree that is being filled, with its size known at every point.
#[derive(Default)]
struct Tree {
    members: Vec<usize>,
    shared: usize,
    total: usize,
}

impl Tree {
    /// The common prefix and the sum of lengths once row `index` is in.
    fn with(&self, rows: &[TokenizedRow], index: usize) -> (usize, usize) {
        let tokens = &rows[index].tokens;
        let shared = match self.members.first() {
            None => tokens.len(),
            Some(first) => common_prefix(&rows[*first].tokens, tokens).min(self.shared),
        };
        (shared, self.total + rows[index].total_len())
    }

    fn len_with(&self, rows: &[TokenizedRow], index: usize) -> usize {
        let (shared, total) = self.with(rows, index);
        total - shared * self.members.len()
    }

    fn push(&mut self, rows: &[TokenizedRow], index: usize) {
        (self.shared, self.total) = self.with(rows, index);
        self.members.push(index);
    }
}
/// Builds the micro-batch of a plan's entry.
pub fn build(rows: &[TokenizedRow], trees: &[Vec<usize>]) -> Batch {
    let mut batch = Batch::default();
    for tree in trees {
        match tree[..] {
            [only] => batch.push_row(&rows[only]),
            _ => {
                let members: Vec<&TokenizedRow> = tree.iter().map(|index| &rows[*index]).collect();
                batch.push_tree(&members);
            }
        }
    }
    batch
}
