//! Small evaluators of the questions' text. They share no code with the generators.

use std::collections::{HashMap, HashSet};

/// The operations of `7 + 3 - 0 =`, after the first value.
pub(crate) fn operations(question: &str) -> (i64, Vec<(String, i64)>) {
    let words: Vec<&str> = question.strip_suffix(" =").unwrap().split(' ').collect();
    let operations = words[1..]
        .chunks(2)
        .map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap()));
    (words[0].parse().unwrap(), operations.collect())
}

/// Left to right, modulo 11.
pub(crate) fn chain(start: i64, operations: &[(String, i64)]) -> i64 {
    operations.iter().fold(start, |value, (operator, operand)| {
        let value = match operator.as_str() {
            "+" => value + operand,
            "-" => value - operand,
            "*" => value * operand,
            other => panic!("{other}"),
        };
        value.rem_euclid(11)
    })
}

/// An operand of a definition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    Number(i64),
}

/// `left operator right`; a given number is `number + 0` without an equation.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) left: Operand,
    pub(crate) right: Option<(char, Operand)>,
}

/// The definitions of a question in symbols or words, and the name that is asked for.
pub(crate) fn definitions(question: &str) -> (HashMap<String, Definition>, String) {
    let operand = |word: &str| match word.parse() {
        Ok(number) => Operand::Number(number),
        Err(_) => Operand::Name(word.to_owned()),
    };
    let in_words = question.ends_with("have?");
    let separator = if in_words { ". " } else { "; " };
    let mut parts: Vec<&str> = question.split(separator).collect();
    let last: Vec<&str> = parts.pop().unwrap().split(' ').collect();
    let asked = if in_words { last[3] } else { last[0] };
    let mut found = HashMap::new();
    for part in parts {
        let words: Vec<&str> = part.split(' ').collect();
        let (left, right) = match words[..] {
            [_, "=" | "has", given] => (given, None),
            [_, "=", left, operator, right] => (left, Some((operator, right))),
            [_, "has", "as", "many", "as", a, "and", b, "together"] => (a, Some(("+", b))),
            [_, "has", "the", "difference", "of", a, "and", b] => (a, Some(("-", b))),
            [_, "has", number, "more", "than", a] => (a, Some(("+", number))),
            [_, "has", number, "fewer", "than", a] => (a, Some(("-", number))),
            [_, "has", number, "times", "as", "many", "as", a] => (a, Some(("*", number))),
            _ => panic!("{part}"),
        };
        let definition = Definition {
            left: operand(left),
            right: right
                .map(|(operator, right)| (operator.chars().next().unwrap(), operand(right))),
        };
        assert!(found.insert(words[0].to_owned(), definition).is_none());
    }
    (found, asked.to_owned())
}

/// The value of a name and the equation that gives it, where every definition on the way may be used.
pub(crate) fn value(
    name: &str,
    definitions: &HashMap<String, Definition>,
    may_use: &dyn Fn(&str) -> bool,
) -> Option<(i64, Option<String>)> {
    let of = |operand: &Operand| match operand {
        Operand::Number(number) => Some(*number),
        Operand::Name(name) => value(name, definitions, may_use).map(|(value, _)| value),
    };
    let definition = &definitions[name];
    let left = of(&definition.left)?;
    let Some((operator, right)) = &definition.right else {
        return Some((left, None));
    };
    let right = of(right)?;
    let result = match operator {
        '+' => left + right,
        '-' => left - right,
        _ => left * right,
    };
    let equation = format!("<<{left}{operator}{right}={result}>>");
    may_use(&equation).then_some((result, Some(equation)))
}

/// A number whose digits stand units first; brackets, signs and spaces do not count.
pub(crate) fn reversed(text: &str) -> u128 {
    let digits: String = text.chars().rev().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// `Every terpus is a brimpus.` as (terpus, brimpus).
pub(crate) fn statement(text: &str) -> (String, String) {
    let text = text.strip_prefix("Every ").unwrap_or(text);
    let (subject, object) = text.trim_end_matches('.').split_once(" is a ").unwrap();
    (subject.to_owned(), object.to_owned())
}

/// A graph question.
pub(crate) struct Graph {
    pub(crate) edges: HashSet<(String, String)>,
    pub(crate) person: String,
    pub(crate) choices: [String; 2],
}

impl Graph {
    pub(crate) fn parse(question: &str) -> Graph {
        let (statements, asked) = question.rsplit_once(". Is ").unwrap();
        let (person, choices) = asked.trim_end_matches('?').split_once(" a ").unwrap();
        let (first, second) = choices.split_once(" or ").unwrap();
        Graph {
            edges: statements.split(". ").map(statement).collect(),
            person: person.to_owned(),
            choices: [first.to_owned(), second.to_owned()],
        }
    }

    /// Statements from the asked person to everything that follows.
    pub(crate) fn distances(&self) -> HashMap<&str, usize> {
        self.distances_from(HashMap::from([(self.person.as_str(), 0)]))
    }

    /// Statements from the nearest person, whoever that is, to the right class, and to the wrong one.
    pub(crate) fn depths(&self) -> (usize, usize) {
        let objects: HashSet<&str> = self.edges.iter().map(|(_, to)| to.as_str()).collect();
        let subjects = self.edges.iter().map(|(from, _)| from.as_str());
        let people = subjects.filter(|subject| !objects.contains(subject));
        let depths = self.distances_from(people.map(|person| (person, 0)).collect());
        let [first, second] = self
            .choices
            .each_ref()
            .map(|choice| depths[choice.as_str()]);
        match self.distances().contains_key(self.choices[0].as_str()) {
            true => (first, second),
            false => (second, first),
        }
    }

    fn distances_from<'a>(
        &'a self,
        mut distances: HashMap<&'a str, usize>,
    ) -> HashMap<&'a str, usize> {
        loop {
            let before = distances.len();
            let known = distances.clone();
            let farthest = known.values().max().copied().unwrap();
            for (from, to) in &self.edges {
                if known.get(from.as_str()) == Some(&farthest) {
                    distances.entry(to).or_insert(farthest + 1);
                }
            }
            if distances.len() == before {
                return distances;
            }
        }
    }
}

/// Every assignment of roles that fits what the people of a puzzle in the generator's words say.
pub(crate) fn worlds(question: &str) -> Vec<Vec<(String, bool)>> {
    let body = question.strip_suffix(" Who is what?").unwrap();
    let said: Vec<(&str, &str)> = body
        .split(". ")
        .flat_map(|sentence| sentence.split("lie. "))
        .filter_map(|sentence| sentence.trim_end_matches('.').split_once(" says: "))
        .collect();
    let fits = |world: &Vec<(String, bool)>| {
        said.iter()
            .zip(world)
            .all(|((_, statement), (_, is_knight))| holds(statement, world) == *is_knight)
    };
    (0..1 << said.len())
        .map(|bits: u32| {
            let people = said.iter().enumerate();
            people
                .map(|(p, (name, _))| ((*name).to_owned(), bits >> p & 1 == 1))
                .collect()
        })
        .filter(fits)
        .collect()
}

fn holds(statement: &str, world: &[(String, bool)]) -> bool {
    let holds = |part: &str| holds(part, world);
    if let Some(rest) = statement.strip_prefix("if ") {
        let (a, b) = rest.split_once(" then ").unwrap();
        return !holds(a) || holds(b);
    }
    if let Some((a, b)) = statement.split_once(" exactly if ") {
        return holds(a) == holds(b);
    }
    if let Some((a, b)) = statement.split_once(" and ") {
        return holds(a) && holds(b);
    }
    if let Some((a, b)) = statement.split_once(" or ") {
        return holds(a) || holds(b);
    }
    let (statement, negated) = (statement.replace(" not ", " "), statement.contains(" not "));
    let (name, role) = statement.split_once(" is a ").unwrap();
    let (_, is_knight) = world.iter().find(|(n, _)| n == name).unwrap();
    (*is_knight == (role == "knight")) != negated
}
