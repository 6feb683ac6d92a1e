//! An evaluation card as Markdown tables, for people.

use std::fmt::Write as _;

use skimstone::eval::Score;

use crate::eval::Card;

/// Two tables: cost and accuracy by route, then accuracy by question kind and route.
pub fn markdown(card: &Card) -> String {
    let mut out = String::new();
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let _ = writeln!(
        out,
        "{} on {} (SHA-256 {}… and {}…), greedy, batch 1, kernels `{}`, {} questions at the same time.\n",
        card.bundle.name,
        card.data.name,
        card.bundle.sha256.get(..12).unwrap_or_default(),
        card.data.sha256.get(..12).unwrap_or_default(),
        card.kernels,
        card.threads
    );
    out.push_str(
        "| route | exact | 95 % interval (Wilson) | n | generated tokens | layer passes | median ms | 95th ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (route, result) in &card.routes {
        let score = &result.all;
        let _ = writeln!(
            out,
            "| `{route}` | {} | {} to {} | {} | {:.1} | {:.0} | {:.1} | {:.1} |",
            percent(score.accuracy),
            percent(score.interval[0]),
            percent(score.interval[1]),
            score.n,
            score.mean_generated_tokens,
            score.mean_layer_passes,
            score.p50_ms,
            score.p95_ms
        );
    }
    let routes: Vec<&String> = card.routes.keys().collect();
    let Some(first) = card.routes.values().next() else {
        return out;
    };
    let _ = write!(out, "\n| question kind | n |");
    routes.iter().for_each(|route| {
        let _ = write!(out, " `{route}` |");
    });
    let _ = write!(out, "\n| --- | --- |{}", " --- |".repeat(routes.len()));
    for (kind, score) in &first.kinds {
        let _ = write!(out, "\n| {kind} | {} |", score.n);
        for route in &routes {
            let of_kind: Option<&Score> = card.routes[*route].kinds.get(kind);
            let _ = write!(
                out,
                " {} |",
                of_kind.map_or("–".to_owned(), |s| percent(s.accuracy))
            );
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::RouteCard;
    use crate::manifest::Input;
    use std::collections::BTreeMap;

    #[test]
    fn one_row_per_route_and_kind() {
        let score = Score {
            accuracy: 0.951,
            interval: [0.941, 0.96],
            n: 2400,
            correct: 2282,
            mean_generated_tokens: 80.25,
            mean_thinking_tokens: 70.0,
            mean_latent_steps: 0.0,
            mean_layer_passes: 400.0,
            mean_head_passes: 80.0,
            p50_ms: 9.5,
            p95_ms: 20.0,
            ..Score::default()
        };
        let input = Input {
            name: "x".into(),
            sha256: "0123456789abcdef".into(),
            bytes: 1,
        };
        let route = RouteCard {
            all: score,
            kinds: BTreeMap::from([("waso".to_owned(), score)]),
        };
        let card = Card {
            bundle: input.clone(),
            data: input,
            kernels: "generic".into(),
            threads: 2,
            routes: BTreeMap::from([("cot".to_owned(), route)]),
        };
        let text = markdown(&card);
        assert!(
            text.contains("| `cot` | 95.1 % | 94.1 % to 96.0 % | 2400 | 80.2 | 400 | 9.5 | 20.0 |"),
            "{text}"
        );
        assert!(text.contains("| waso | 2400 | 95.1 % |"), "{text}");
    }
}
