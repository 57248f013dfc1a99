//! Licence expressions as SPDX writes them.

/// Whether the expression can be satisfied by licences that `is_allowed` takes. One that cannot be read cannot.
pub(super) fn is_satisfied(expression: &str, is_allowed: impl Fn(&str) -> bool) -> bool {
    // Older crates write "MIT/Apache-2.0" for a choice.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, is_allowed };
    let satisfied = reader.any();
    satisfied == Some(true) && reader.words.is_empty()
}

struct Reader<'a, F> {
    words: &'a [&'a str],
    is_allowed: F,
}

impl<'a, F: Fn(&str) -> bool> Reader<'a, F> {
    /// `a OR b OR …`
    fn any(&mut self) -> Option<bool> {
        let mut satisfied = self.all()?;
        while self.skip("OR") {
            satisfied |= self.all()?;
        }
        Some(satisfied)
    }

    /// `a AND b AND …`
    fn all(&mut self) -> Option<bool> {
        let mut satisfied = self.one()?;
        while self.skip("AND") {
            satisfied &= self.one()?;
        }
        Some(satisfied)
    }

    /// A licence, or an expression in parentheses.
    fn one(&mut self) -> Option<bool> {
        if self.skip("(") {
            let satisfied = self.any()?;
            return self.skip(")").then_some(satisfied);
        }
        let licence = self.next().filter(|word| !matches!(*word, "OR" | "AND" | "WITH" | ")"))?;
        if self.skip("WITH") {
            let exception = self.next()?;
            return Some((self.is_allowed)(&format!("{licence} WITH {exception}")));
        }
        Some((self.is_allowed)(licence))
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn skip(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_satisfied_as_its_words_say() {
        let table = [
            ("MIT", true),
            ("GPL-3.0", false),
            ("", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("MIT AND Apache-2.0", true),
            ("GPL-3.0 OR MIT AND Apache-2.0", true),
            ("MIT OR GPL-3.0 AND GPL-2.0", true),
            ("(MIT OR GPL-3.0) AND GPL-2.0", false),
            ("(GPL-2.0 OR MIT) AND (Apache-2.0 OR GPL-3.0)", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0 WITH other-exception", false),
            ("(MIT", false),
            ("MIT)", false),
            ("MIT OR", false),
        ];
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
        for (expression, expected) in table {
            assert_eq!(is_satisfied(expression, |one| allowed.contains(&one)), expected, "{expression:?}");
        }
    }
}
