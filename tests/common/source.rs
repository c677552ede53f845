//! Rust source as far as the house rules need it: tokens without comments and literals, paths, functions. Not a
//! parser: it knows what rustfmt leaves of the language.

/// One word or sign, and the line on which it stands, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path as it is used somewhere, such as `std::net::TcpStream` or `super::*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines from its `fn` to its closing brace on which there is code.
    pub(crate) code_lines: usize,
}

/// The tokens of a file without comments, without the contents of literals, and without what is only there for
/// its unit tests.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    without_tests(all_tokens(source))
}

/// How many lines a file has, without its unit tests.
pub(crate) fn lines_without_tests(source: &str) -> usize {
    let all = all_tokens(source);
    let items = test_items(&all);
    let is_cut = |index: usize| items.iter().any(|&(start, end)| (start..end).contains(&index));
    let last = (0..all.len()).rfind(|&index| !is_cut(index)).map_or(0, |index| all[index].line);
    let cut = items.iter().filter(|&&(start, _)| all[start].line < last);
    last - cut.map(|&(start, end)| all[end - 1].line - all[start].line + 1).sum::<usize>()
}

/// Every path with at least two segments, groups taken apart.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_word(&tokens[at].text) {
            at = path_at(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found.retain(|path| path.segments.len() > 1);
    found
}

/// Every function with a body; those inside others count for both.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        // `fn(` is a type.
        if tokens[at].text != "fn" || !is_word(&tokens[at + 1].text) {
            continue;
        }
        let rest = &tokens[at..];
        let Some(open) = rest.iter().position(|token| token.text == "{" || token.text == ";") else {
            continue;
        };
        if rest[open].text == ";" {
            continue;
        }
        let close = open + matching_brace(&rest[open..]);
        let mut lines: Vec<usize> = rest[..=close].iter().map(|token| token.line).collect();
        lines.dedup();
        found.push(Function {
            name: tokens[at + 1].text.clone(),
            line: tokens[at].line,
            code_lines: lines.len(),
        });
    }
    found
}

fn is_word(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// Reads the path that starts at `at`, behind `prefix`; gives the index after it.
fn path_at(tokens: &[Token], at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let mut segments = prefix.to_vec();
    let mut end = at;
    loop {
        segments.push(text(end).to_owned());
        end += 1;
        if text(end) != "::" {
            break;
        }
        match text(end + 1) {
            "{" => {
                end += 2;
                while !matches!(text(end), "}" | "") {
                    let is_element = is_word(text(end)) || text(end) == "*";
                    end = if is_element { path_at(tokens, end, &segments, found) } else { end + 1 };
                }
                return end + 1;
            }
            "*" => end += 1,
            word if is_word(word) => end += 1,
            // A turbofish: the path goes on behind it, but says nothing new.
            _ => break,
        }
    }
    found.push(Path { segments, line: tokens[at].line });
    end
}

/// The index of the brace that closes the one at index 0.
fn matching_brace(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}

fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let items = test_items(&tokens);
    let is_cut = |index: usize| items.iter().any(|&(start, end)| (start..end).contains(&index));
    tokens.iter().enumerate().filter(|&(index, _)| !is_cut(index)).map(|(_, token)| token.clone()).collect()
}

/// Where items under `#[cfg(test)]` start and end, the attribute included.
fn test_items(tokens: &[Token]) -> Vec<(usize, usize)> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut items = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_attribute = tokens[at..].iter().map(|token| token.text.as_str()).take(7).eq(ATTRIBUTE);
        if !is_attribute {
            at += 1;
            continue;
        }
        let body = tokens[at..].iter().position(|token| token.text == "{" || token.text == ";");
        let body = at + body.unwrap_or(tokens.len() - at - 1);
        let end = if tokens[body].text == "{" { body + matching_brace(&tokens[body..]) } else { body };
        items.push((at, end + 1));
        at = end + 1;
    }
    items
}

fn all_tokens(source: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (len, keep) = next_len(rest, first);
        let (text, after) = rest.split_at(len);
        if keep {
            tokens.push(Token { text: text.to_owned(), line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The length of what comes next, and whether it is a token rather than space, a comment or a literal.
fn next_len(rest: &str, first: char) -> (usize, bool) {
    if first.is_whitespace() {
        return (first.len_utf8(), false);
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment_len(rest), false);
    }
    if let Some(len) = literal_len(rest) {
        return (len, false);
    }
    if rest.starts_with("::") {
        return (2, true);
    }
    if is_word(rest) || first.is_ascii_digit() {
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        return (end.unwrap_or(rest.len()), true);
    }
    (first.len_utf8(), true)
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the string or character literal that `rest` starts with, if it does.
fn literal_len(rest: &str) -> Option<usize> {
    let mark = rest.find(|letter: char| !matches!(letter, 'b' | 'c' | 'r' | '#'))?;
    let (prefix, body) = rest.split_at(mark);
    let letters = prefix.trim_end_matches('#');
    if body.starts_with('"') && matches!(letters, "r" | "br" | "cr") {
        let end = format!("\"{}", "#".repeat(prefix.len() - letters.len()));
        return Some(body[1..].find(&end).map_or(rest.len(), |at| mark + 1 + at + end.len()));
    }
    if letters.len() != prefix.len() || !matches!(letters, "" | "b" | "c") {
        return None;
    }
    let quote = body.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    // A lifetime is a quote with no other one after its first letter.
    let is_lifetime = quote == '\'' && !body[1..].starts_with('\\') && body.chars().nth(2) != Some('\'');
    if is_lifetime {
        return None;
    }
    let mut escaped = false;
    for (at, letter) in body.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Some(mark + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}
