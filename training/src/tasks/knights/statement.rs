//! What one person says about the others, and whether it is so.

use rand::Rng;

/// "This person is a knight", or a knave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) person: usize,
    pub(super) is_knight: bool,
}

/// A statement over at most two claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Is(Claim),
    Not(Claim),
    And(Claim, Claim),
    Or(Claim, Claim),
    If(Claim, Claim),
    Iff(Claim, Claim),
}

impl Claim {
    fn holds(self, world: u32) -> bool {
        (world >> self.person & 1 == 1) == self.is_knight
    }

    fn text(self, names: &[&str]) -> String {
        format!(
            "{} is a {}",
            names[self.person],
            super::role(self.is_knight)
        )
    }
}

impl Statement {
    /// A statement of any of the six kinds about any of `n` people.
    pub(super) fn draw(n: usize, rng: &mut impl Rng) -> Statement {
        let kind = rng.random_range(0..6);
        let mut claim = || Claim {
            person: rng.random_range(0..n),
            is_knight: rng.random_bool(0.5),
        };
        let first = claim();
        let mut second = claim();
        // About one person twice, most statements are always or never true.
        while second.person == first.person {
            second = claim();
        }
        match kind {
            0 => Statement::Is(first),
            1 => Statement::Not(first),
            2 => Statement::And(first, second),
            3 => Statement::Or(first, second),
            4 => Statement::If(first, second),
            _ => Statement::Iff(first, second),
        }
    }

    /// Whether it is true in a world (bit p: person p is a knight).
    pub(super) fn holds(self, world: u32) -> bool {
        let holds = |claim: Claim| claim.holds(world);
        match self {
            Statement::Is(a) => holds(a),
            Statement::Not(a) => !holds(a),
            Statement::And(a, b) => holds(a) && holds(b),
            Statement::Or(a, b) => holds(a) || holds(b),
            Statement::If(a, b) => !holds(a) || holds(b),
            Statement::Iff(a, b) => holds(a) == holds(b),
        }
    }

    /// Whether it cannot be `should_hold`, whatever the people from `known` on to `n` are.
    pub(super) fn is_impossible(
        self,
        should_hold: bool,
        world: u32,
        known: usize,
        n: usize,
    ) -> bool {
        (0..1 << (n - known)).all(|rest: u32| self.holds(world | rest << known) != should_hold)
    }

    /// The statement in words.
    pub(super) fn text(self, names: &[&str]) -> String {
        let text = |claim: Claim| claim.text(names);
        match self {
            Statement::Is(a) => text(a),
            Statement::Not(a) => {
                let role = super::role(a.is_knight);
                format!("{} is not a {role}", names[a.person])
            }
            Statement::And(a, b) => format!("{} and {}", text(a), text(b)),
            Statement::Or(a, b) => format!("{} or {}", text(a), text(b)),
            Statement::If(a, b) => format!("if {} then {}", text(a), text(b)),
            Statement::Iff(a, b) => format!("{} exactly if {}", text(a), text(b)),
        }
    }
}
