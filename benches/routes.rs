//! What routes save: wall-clock time of whole questions through the sdk, question by question in turn.
//!
//! ```text
//! cargo bench -p skimstone-benches --bench routes -- MODEL.skim DATA.jsonl [auto=ROUTE:GATE:THRESHOLD] [n=300] [rounds=7] [threads=1]
//! ```
//!
//! Every round asks every question on every route before the next question comes, in an order that turns with the question, so
//! that a disturbance of the machine meets all routes. A ratio is of the sums of one round; its spread is over rounds. `auto=` adds
//! that gate to the bundle, for students that are not calibrated.

use std::error::Error;
use std::time::Instant;

use serde_json::Value;
use skimstone::eval::Tally;
use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{AutoSpec, Bundle, GateKind, Model, ModelOptions};
use skimstone_benches::median;

/// The route that the others are compared with.
const BASE: &str = "cot";

struct Arguments {
    model: String,
    data: String,
    auto: Option<AutoSpec>,
    n: usize,
    rounds: usize,
    threads: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`; without a model there is nothing to measure, which is how the test suite calls it.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let named: Vec<&str> = args
        .into_iter()
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    match arguments(&named)? {
        Some(arguments) => measure(&arguments),
        None => {
            println!("skipped: name a bundle and a file of questions");
            Ok(())
        }
    }
}

fn arguments(named: &[&str]) -> Result<Option<Arguments>, Box<dyn Error>> {
    let [model, data, options @ ..] = named else {
        return Ok(None);
    };
    let mut arguments = Arguments {
        model: (*model).to_owned(),
        data: (*data).to_owned(),
        auto: None,
        n: 300,
        rounds: 7,
        threads: 1,
    };
    for option in options {
        match option.split_once('=') {
            Some(("n", n)) => arguments.n = n.parse()?,
            Some(("rounds", n)) => arguments.rounds = n.parse()?,
            Some(("threads", n)) => arguments.threads = n.parse()?,
            Some(("auto", gate)) => arguments.auto = Some(auto(gate)?),
            _ => return Err(format!("unknown option `{option}`").into()),
        }
    }
    Ok(Some(arguments))
}

fn auto(text: &str) -> Result<AutoSpec, Box<dyn Error>> {
    let parts: Vec<&str> = text.split(':').collect();
    let [route, gate, threshold] = parts.as_slice() else {
        return Err("auto=ROUTE:GATE:THRESHOLD".into());
    };
    Ok(AutoSpec {
        route: (*route).to_owned(),
        gate: GateKind::from_name(gate).ok_or("unknown gate")?,
        threshold: threshold.parse()?,
        calibration: None,
    })
}

fn measure(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let rows = rows(&arguments.data, arguments.n)?;
    let options = ModelOptions::new().with_threads(arguments.threads);
    let model = match &arguments.auto {
        None => Model::open(&arguments.model, options)?,
        Some(auto) => {
            let bundle = Bundle::open(&arguments.model)?;
            let mut reasoning = bundle.reasoning().clone();
            reasoning.auto = Some(auto.clone());
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("auto.skim");
            bundle.rewrite(&path, reasoning)?;
            Model::open(&path, options)?
        }
    };
    let reasoning = model.reasoning();
    let gate = reasoning.auto.iter().map(|_| AutoSpec::NAME);
    let routes: Vec<&str> = reasoning
        .routes
        .keys()
        .map(String::as_str)
        .chain(gate)
        .collect();
    if !routes.contains(&BASE) {
        return Err(format!("the bundle has no route `{BASE}`").into());
    }
    let mut engine = Engine::new(&model, EngineOptions::default())?;
    let mut tallies: Vec<Tally> = routes.iter().map(|_| Tally::default()).collect();
    // [route][round]: milliseconds of all questions.
    let mut sums = vec![Vec::new(); routes.len()];
    for round in 0..=arguments.rounds {
        let mut sum = vec![0.0; routes.len()];
        for (i, (question, right)) in rows.iter().enumerate() {
            for turn in 0..routes.len() {
                let route = (i + turn) % routes.len();
                let ask = Ask::new().with_route(routes[route]);
                let began = Instant::now();
                let answer = engine.answer_text(question, &ask)?;
                let ms = began.elapsed().as_secs_f64() * 1e3;
                sum[route] += ms;
                if round == 0 {
                    tallies[route].count(answer.text.trim() == right.trim(), &answer.usage, ms);
                }
            }
        }
        // The first round warms up, and counts what does not vary.
        if round > 0 {
            sums.iter_mut()
                .zip(sum)
                .for_each(|(all, sum)| all.push(sum));
        }
    }
    let base = routes.iter().position(|route| *route == BASE).unwrap_or(0);
    println!(
        "# {}, {} threads, {} questions, {} rounds in turn, {}",
        arguments.model,
        arguments.threads,
        rows.len(),
        arguments.rounds,
        model.kernels()
    );
    println!(
        "route,accuracy,low,high,tokens,probe_tokens,layer_passes,ms_per_question,faster_than_{BASE},slowest_round,fastest_round"
    );
    for (route, name) in routes.iter().enumerate() {
        let score = tallies[route].score();
        let pairs = sums[base].iter().zip(&sums[route]);
        let ratios: Vec<f64> = pairs.map(|(base, own)| base / own).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "{name},{:.4},{:.4},{:.4},{:.1},{:.1},{:.0},{:.3},{:.2},{least:.2},{most:.2}",
            score.accuracy,
            score.interval[0],
            score.interval[1],
            score.mean_generated_tokens,
            score.mean_probe_tokens,
            score.mean_layer_passes,
            median(&sums[route]) / rows.len() as f64,
            median(&ratios)
        );
    }
    Ok(())
}

fn rows(path: &str, n: usize) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let field = |row: &Value, name: &str| {
        let text = row[name].as_str().map(str::to_owned);
        text.ok_or_else(|| format!("{path}: a row without `{name}`"))
    };
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()).take(n) {
        let row: Value = serde_json::from_str(line)?;
        rows.push((field(&row, "question")?, field(&row, "answer")?));
    }
    Ok(rows)
}
