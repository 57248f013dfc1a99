//! What valgrind found, read from the XML that it writes.

/// One place in a program.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) function: String,
    /// The source file, if it is known.
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// A branch, an address or a system call that depends on a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    pub(crate) what: String,
    /// How the program came there, the innermost call first; calls that the compiler inlined are among them.
    pub(crate) stack: Vec<Frame>,
}

/// All findings of one run.
pub(crate) fn findings(xml: &str) -> Vec<Finding> {
    elements(xml, "error")
        .map(|error| Finding {
            what: text(error, "what"),
            // Further stacks tell where the memory comes from.
            stack: elements(error, "stack")
                .next()
                .map(|stack| elements(stack, "frame").map(frame).collect())
                .unwrap_or_default(),
        })
        .collect()
}

fn frame(xml: &str) -> Frame {
    let (folder, file) = (text(xml, "dir"), text(xml, "file"));
    Frame {
        function: text(xml, "fn"),
        file: if folder.is_empty() || file.starts_with('/') { file } else { format!("{folder}/{file}") },
        line: text(xml, "line").parse().unwrap_or_default(),
    }
}

/// What stands between `<name>` and `</name>`, each time; elements of one name are never inside each other.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let (inside, after) = after.split_once(&end)?;
        rest = after;
        Some(inside)
    })
}

fn text(xml: &str, name: &str) -> String {
    let text = elements(xml, name).next().unwrap_or_default();
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<valgrindoutput><error><unique>0x0</unique><kind>UninitCondition</kind>
        <what>Conditional jump or move depends on uninitialised value(s)</what>
        <stack><frame><ip>0x1</ip><obj>/p</obj><fn>a::b&lt;u8&gt;</fn><dir>/src</dir><file>a.rs</file><line>7</line></frame>
        <frame><ip>0x2</ip><obj>/p</obj><fn>main</fn></frame></stack>
        <auxwhat>created</auxwhat><stack><frame><ip>0x3</ip><fn>elsewhere</fn></frame></stack></error>
        <error><what>Use of uninitialised value of size 8</what></error></valgrindoutput>";

    #[test]
    fn each_error_is_a_finding_with_its_first_stack() {
        let found = findings(XML);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].what, "Conditional jump or move depends on uninitialised value(s)");
        let innermost = Frame { function: "a::b<u8>".to_owned(), file: "/src/a.rs".to_owned(), line: 7 };
        let outermost = Frame { function: "main".to_owned(), ..Frame::default() };
        assert_eq!(found[0].stack, [innermost, outermost]);
        assert_eq!(found[1].stack, []);
    }

    #[test]
    fn a_clean_run_has_no_findings() {
        assert_eq!(findings("<valgrindoutput><status>x</status></valgrindoutput>"), []);
    }
}
