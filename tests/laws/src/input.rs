//! How an input is read: octets that choose, then what is sent.

/// What is left of an input.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// The next octet; 0 behind the end.
    pub fn byte(&mut self) -> u8 {
        self.octets(1).first().copied().unwrap_or(0)
    }

    /// The next octets, as many as there are.
    pub fn octets(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// The pieces of `bytes`, of these sizes in turn; 0 is one piece of all that is left.
pub fn cut<'a>(bytes: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut input = Input::new(bytes);
    let mut pieces = Vec::new();
    let sizes = if sizes.is_empty() { &[0] } else { sizes };
    for size in sizes.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let size = match size {
            0 => bytes.len(),
            size => usize::from(*size),
        };
        pieces.push(input.octets(size));
    }
    pieces
}

/// The place of `part` in `whole`.
pub fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

/// Octets as they can be read in a message of a failed law.
pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
