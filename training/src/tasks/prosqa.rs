//! Paths through a graph of invented classes: is Alex a gorpus or a bompus?
//!
//! ```text
//! question  Every terpus is a brimpus. Tom is a terpus. … Is Tom a lempus or scrompus?      people are the roots, classes hang below
//! chunks    Tom is a terpus. | Every terpus is a brimpus. | Every brimpus is a lempus.      a shortest path to one of the two, both leaves
//! answer    Tom is a lempus.
//! ```
//!
//! Every step of the path is needed. By guessing, half of the answers are right: a result near 50 % says nothing. Nor does one near 90 %: of the
//! published pairs the class that is farther from the nearest person, whoever that is, is the right one in 262 of 300 and as far in 31, so that a
//! student that never looks at the asked person can have 92 %. [`Prosqa::balanced`] takes this shortcut away.
//!
//! Source of the task: Hao et al., "Training Large Language Models to Reason in a Continuous Latent Space", arXiv 2412.06769. The generator is
//! ours; its shares are counts over the 300 published validation questions, which [`Prosqa::test`] takes as the test split.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use crate::data::{Row, read_lines, record};
use crate::error::Result;

/// The people of the published questions.
const PEOPLE: [&str; 17] = [
    "Alex", "Bob", "Carol", "Davis", "Eva", "Fae", "Gabriel", "Jack", "Max", "Oliver", "Polly",
    "Rex", "Sally", "Sam", "Stella", "Tom", "Wren",
];
/// The classes of the published questions.
const CLASSES: [&str; 38] = [
    "bompus", "boompus", "brimpus", "chorpus", "dumpus", "felpus", "fompus", "gerpus", "gorpus",
    "grimpus", "gwompus", "hilpus", "impus", "jelpus", "jompus", "kerpus", "lempus", "lorpus",
    "numpus", "quimpus", "rempus", "rompus", "rorpus", "scrompus", "shumpus", "sterpus", "storpus",
    "terpus", "timpus", "tumpus", "vumpus", "worpus", "wumpus", "yerpus", "yimpus", "yumpus",
    "zhorpus", "zumpus",
];

/// Published questions by number of classes.
const CLASS_COUNTS: [(usize, u32); 11] = [
    (15, 7),
    (16, 5),
    (17, 19),
    (18, 25),
    (19, 41),
    (20, 57),
    (21, 62),
    (22, 37),
    (23, 32),
    (24, 12),
    (25, 3),
];
/// Published questions by number of people.
const PEOPLE_COUNTS: [(usize, u32); 5] = [(2, 180), (3, 93), (4, 21), (5, 5), (6, 1)];
/// Published questions by length of the path.
const STEP_COUNTS: [(usize, u32); 4] = [(3, 124), (4, 133), (5, 36), (6, 7)];
/// Share of the published questions whose right class also follows from somebody else.
const SHARED_TARGETS: f64 = 26.0 / 300.0;
/// Published questions by distance of the wrong class from the nearest person.
const OTHER_COUNTS: [(usize, u32); 4] = [(1, 64), (2, 160), (3, 71), (4, 5)];
/// Published classes by number of statements that they are the object of.
const PARENT_COUNTS: [(usize, u32); 6] =
    [(1, 2989), (2, 1899), (3, 848), (4, 256), (5, 80), (6, 20)];

/// Of a new class: the chance to hang below the asked person's side, and the same for the other side (arXiv 2412.06769, appendix).
const ONE_SIDE: f64 = 0.35;

/// The graph task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Prosqa {
    /// The test split: a file of the published format. Without it the test split is generated, too.
    #[arg(long)]
    pub test: Option<PathBuf>,
    /// Both classes are equally far from the people: only the path tells which is right. Unlike the published questions.
    #[arg(long)]
    pub balanced: bool,
}

/// What a question shall be like.
struct Wish {
    /// Length of the shortest path.
    steps: usize,
    /// Whether the right class follows from another person, too.
    is_shared: bool,
    /// How far the wrong class is from the nearest person; as far as the right one if `None`.
    other_depth: Option<usize>,
}

/// A statement `child` of `parent`: every node is a number, people first.
struct Graph {
    people: usize,
    /// For each node those that it is an object of.
    parents: Vec<Vec<usize>>,
    /// Statements away from the nearest person.
    depth: Vec<usize>,
    /// Whether the first person, and whether anybody else, is one of these.
    sides: Vec<(bool, bool)>,
}

impl Prosqa {
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Row {
        // What is asked for is drawn once, so that kinds of graph in which it is rare do not make it rarer still.
        let wish = Wish {
            steps: weighted(&STEP_COUNTS, rng),
            is_shared: rng.random_bool(SHARED_TARGETS),
            other_depth: (!self.balanced).then(|| weighted(&OTHER_COUNTS, rng)),
        };
        loop {
            let graph = Graph::draw(rng);
            if let Some(row) = graph.ask(&wish, rng) {
                return row;
            }
        }
    }
}

fn weighted(counts: &[(usize, u32)], rng: &mut impl Rng) -> usize {
    let drawn = counts.choose_weighted(rng, |(_, count)| *count);
    drawn.expect("the counts are above zero").0
}

impl Graph {
    fn draw(rng: &mut impl Rng) -> Graph {
        let people = weighted(&PEOPLE_COUNTS, rng);
        let classes = weighted(&CLASS_COUNTS, rng);
        let mut graph = Graph {
            people,
            parents: vec![Vec::new(); people],
            depth: vec![0; people],
            sides: (0..people).map(|p| (p == 0, p != 0)).collect(),
        };
        // Early classes find few to hang below; later ones make up for it, so that the number of statements is as published.
        let mut owed = 0;
        for node in people..people + classes {
            let side: f64 = rng.random();
            let candidates: Vec<usize> = (0..node)
                .filter(|n| match graph.sides[*n] {
                    (first, other) if side < ONE_SIDE => first && !other,
                    (first, other) if side < 2.0 * ONE_SIDE => other && !first,
                    _ => true,
                })
                .collect();
            let wanted = weighted(&PARENT_COUNTS, rng) + owed;
            let count = wanted.min(candidates.len());
            owed = wanted - count;
            // Deep classes get more below them, so that paths become long.
            let weight = |n: &usize| 1.0 + 1.5 * graph.depth[*n] as f64;
            let parents: Vec<usize> = candidates
                .choose_multiple_weighted(rng, count, weight)
                .expect("the weights are positive")
                .copied()
                .collect();
            let of =
                |pick: fn(&(bool, bool)) -> bool| parents.iter().any(|p| pick(&graph.sides[*p]));
            let sides = (of(|s| s.0), of(|s| s.1));
            let nearest = parents.iter().map(|p| graph.depth[*p]).min();
            graph.depth.push(1 + nearest.unwrap_or_default());
            graph.sides.push(sides);
            graph.parents.push(parents);
        }
        graph
    }

    /// A question about the first person, if the graph has one as wished.
    fn ask(&self, wish: &Wish, rng: &mut impl Rng) -> Option<Row> {
        let nodes = self.parents.len();
        let used: HashSet<usize> = self.parents.iter().flatten().copied().collect();
        if !(0..self.people).all(|person| used.contains(&person)) {
            return None;
        }
        let from_first = self.distances();
        let leaves = (self.people..nodes).filter(|node| !used.contains(node));
        let (reached, others): (Vec<usize>, Vec<usize>) =
            leaves.partition(|leaf| from_first[*leaf].is_some());
        let reached: Vec<usize> = reached
            .into_iter()
            .filter(|leaf| from_first[*leaf] == Some(wish.steps))
            .filter(|leaf| self.sides[*leaf].1 == wish.is_shared)
            .collect();
        let target = *reached.choose(rng)?;
        let other_depth = wish.other_depth.unwrap_or(self.depth[target]);
        let others: Vec<usize> = others
            .into_iter()
            .filter(|leaf| self.depth[*leaf] == other_depth)
            .collect();
        let other = *others.choose(rng)?;

        let mut path = vec![target];
        while let Some(&node) = path.last().filter(|node| **node != 0) {
            let nearer: Vec<usize> = self.parents[node]
                .iter()
                .copied()
                .filter(|p| from_first[*p].is_some_and(|d| Some(d + 1) == from_first[node]))
                .collect();
            path.push(*nearer.choose(rng)?);
        }
        path.reverse();

        let people: Vec<&str> = PEOPLE.choose_multiple(rng, self.people).copied().collect();
        let classes = CLASSES.choose_multiple(rng, nodes - self.people).copied();
        let names: Vec<&str> = people.into_iter().chain(classes).collect();
        let statement = |parent: usize, node: usize| {
            let every = if parent < self.people { "" } else { "Every " };
            format!("{every}{} is a {}.", names[parent], names[node])
        };
        let mut statements: Vec<String> = (0..nodes)
            .flat_map(|node| self.parents[node].iter().map(move |p| (*p, node)))
            .map(|(parent, node)| statement(parent, node))
            .collect();
        statements.shuffle(rng);
        let (first, second) = if rng.random_bool(0.5) {
            (target, other)
        } else {
            (other, target)
        };
        statements.push(format!(
            "Is {} a {} or {}?",
            names[0], names[first], names[second]
        ));
        let chunks = path.windows(2).map(|pair| statement(pair[0], pair[1]));
        Some(row(
            statements.join(" "),
            chunks.collect(),
            format!("{} is a {}.", names[0], names[target]),
        ))
    }

    /// Statements from the first person to each node.
    fn distances(&self) -> Vec<Option<usize>> {
        let mut distances = vec![None; self.parents.len()];
        distances[0] = Some(0);
        let mut queue = VecDeque::from([0]);
        while let Some(node) = queue.pop_front() {
            for child in 0..self.parents.len() {
                if distances[child].is_none() && self.parents[child].contains(&node) {
                    distances[child] = distances[node].map(|d: usize| d + 1);
                    queue.push_back(child);
                }
            }
        }
        distances
    }
}

/// A row whose chunks form a path: each needs the one before.
fn row(question: String, chunks: Vec<String>, answer: String) -> Row {
    Row {
        kind: format!("{} steps", chunks.len()),
        skippable: vec![false; chunks.len()],
        parents: (0..chunks.len())
            .map(|i| i.checked_sub(1).into_iter().collect())
            .collect(),
        question,
        chunks,
        answer,
        ..Row::default()
    }
}

/// A line of the published files.
#[derive(Deserialize)]
struct Published {
    question: String,
    rationale: Vec<String>,
    answer: String,
}

/// The rows of a file of published questions.
pub(super) fn read(path: &std::path::Path) -> Result<Vec<Row>> {
    let lines = read_lines(path, record::<Published>)?;
    lines
        .map(|line| line.map(|p| row(p.question, p.rationale, p.answer)))
        .collect()
}
