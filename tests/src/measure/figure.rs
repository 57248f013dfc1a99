//! Figures as reports show them.

/// The middle of the values, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    match values.len() % 2 {
        1 => Some(upper),
        _ => Some((values.get(middle.checked_sub(1)?)? + upper) / 2.0),
    }
}

/// A figure with three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What is shown of so many figures, marked unless every round has one.
pub fn marked(shown: String, figures: usize, rounds: usize) -> String {
    if figures < rounds { format!("{shown} ({figures} of {rounds})") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_one_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(vec![7.0]), Some(7.0));
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(vec![8.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn a_figure_that_a_round_lacks_is_marked() {
        assert_eq!(marked("2.5".to_owned(), 5, 5), "2.5");
        assert_eq!(marked("2.5".to_owned(), 1, 5), "2.5 (1 of 5)");
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(median(Vec::new()), None);
    }
}
