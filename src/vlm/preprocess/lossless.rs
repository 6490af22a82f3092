//! Header of a lossless WebP stream, parsed for the memory of its code tables: a few bytes each can
//! make tables of four kilobytes, 327,680 times.

/// Parses up to the pixels and returns the bytes of the code tables. `size` is the picture's size
/// if the stream does not begin with it. `None` if the stream is truncated or inconsistent, at
/// which the decoder stops as well.
pub(super) fn table_memory(stream: &[u8], size: Option<(u64, u64)>) -> Option<u64> {
    let mut reader = BitReader {
        bytes: stream,
        at: 0,
    };
    let (mut width, height) = match size {
        Some(size) => size,
        None => {
            reader.bits(8)?;
            let size = (
                u64::from(reader.bits(14)?) + 1,
                u64::from(reader.bits(14)?) + 1,
            );
            reader.bits(4)?;
            size
        }
    };
    let mut transforms = [false; 4];
    while reader.bits(1)? == 1 {
        let kind = reader.bits(2)?;
        if std::mem::replace(&mut transforms[kind as usize], true) {
            return None;
        }
        match kind {
            0 | 1 => {
                reader.blocks(width, height)?;
            }
            // Palette colors, several of which may share a pixel.
            3 => {
                let colors = reader.bits(8)? + 1;
                reader.small_picture(colors.into())?;
                let shared = [(2, 8), (4, 4), (16, 2)]
                    .into_iter()
                    .find(|(limit, _)| colors <= *limit)
                    .map_or(1, |(_, pixels)| pixels);
                width = width.div_ceil(shared);
            }
            _ => {}
        }
    }
    let cached = reader.cached_colors()?;
    let groups = if reader.bits(1)? == 1 {
        1 + reader.blocks(width, height)?
    } else {
        1
    };
    let mut memory = 0;
    for _ in 0..groups {
        memory += GROUP_BYTES + reader.group(cached)?.iter().map(Code::memory).sum::<u64>();
    }
    Some(memory)
}

/// Bytes of a group of tables without their contents; the list of groups grows by doubling.
const GROUP_BYTES: u64 = 600;

/// Order in which the lengths of the code-length code are stored.
const ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// Prefix code: number of words by length, and symbols in order.
struct Code {
    counts: [i32; 16],
    symbols: Vec<u16>,
}

impl Code {
    /// Builds the canonical code from lengths by symbol; a symbol of length 0 has no word.
    fn from_lengths(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; 16];
        lengths
            .iter()
            .filter(|&&length| length > 0)
            .for_each(|&length| counts[usize::from(length)] += 1);
        let mut symbols: Vec<u16> = (0..lengths.len() as u16)
            .filter(|&symbol| lengths[usize::from(symbol)] > 0)
            .collect();
        symbols.sort_by_key(|&symbol| lengths[usize::from(symbol)]);
        // A code of several words must be complete.
        let free = counts[1..]
            .iter()
            .fold(1, |free: i32, count| 2 * free - count);
        (symbols.len() == 1 || (symbols.len() > 1 && free == 0)).then_some(Self { counts, symbols })
    }

    /// Bytes of the decoder's table: words of up to ten bits are looked up, longer ones are tree
    /// nodes.
    fn memory(&self) -> u64 {
        let longest = self
            .counts
            .iter()
            .rposition(|count| *count > 0)
            .unwrap_or(0);
        let long: i32 = self.counts[11..].iter().sum();
        if self.symbols.len() == 1 {
            0
        } else {
            (4 << longest.min(10)) + 64 * (1 + long as u64)
        }
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// Number of bits read.
    at: usize,
}

impl BitReader<'_> {
    fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for i in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << i;
            self.at += 1;
        }
        Some(value)
    }

    fn symbol(&mut self, code: &Code) -> Option<u16> {
        if let [only] = code.symbols.as_slice() {
            return Some(*only);
        }
        let (mut word, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            word |= self.bits(1)? as i32;
            if word - first < *count {
                return code.symbols.get((index + word - first) as usize).copied();
            }
            index += count;
            first = (first + count) << 1;
            word <<= 1;
        }
        None
    }

    fn code(&mut self, alphabet: usize) -> Option<Code> {
        if self.bits(1)? == 1 {
            let has_two = self.bits(1)? == 1;
            let bits = if self.bits(1)? == 1 { 8 } else { 1 };
            let mut symbols = vec![self.bits(bits)? as u16];
            if has_two {
                symbols.push(self.bits(8)? as u16);
            }
            let mut counts = [0; 16];
            counts[1] = symbols.len() as i32;
            return Some(Code { counts, symbols });
        }
        let mut lengths = [0; 19];
        for symbol in ORDER.iter().take(4 + self.bits(4)? as usize) {
            lengths[*symbol] = self.bits(3)? as u8;
        }
        let code = Code::from_lengths(&lengths)?;
        let mut remaining = alphabet;
        if self.bits(1)? == 1 {
            let bits = 2 + 2 * self.bits(3)?;
            remaining = 2 + self.bits(bits)? as usize;
        }
        let (mut lengths, mut previous) = (Vec::with_capacity(alphabet), 8);
        while lengths.len() < alphabet && remaining > 0 {
            remaining -= 1;
            match self.symbol(&code)? {
                length @ 0..16 => {
                    lengths.push(length as u8);
                    previous = if length > 0 { length as u8 } else { previous };
                }
                repeat => {
                    let (least, bits, length) = match repeat {
                        16 => (3, 2, previous),
                        17 => (3, 3, 0),
                        _ => (11, 7, 0),
                    };
                    let end = lengths.len() + least + self.bits(bits)? as usize;
                    if end > alphabet {
                        return None;
                    }
                    lengths.resize(end, length);
                }
            }
        }
        Code::from_lengths(&lengths)
    }

    /// Reads the codes of green, lengths and cached colors, of red, blue and alpha, and of
    /// distances.
    fn group(&mut self, cached: usize) -> Option<[Code; 5]> {
        Some([
            self.code(280 + cached)?,
            self.code(256)?,
            self.code(256)?,
            self.code(256)?,
            self.code(40)?,
        ])
    }

    fn cached_colors(&mut self) -> Option<usize> {
        match self.bits(1)? {
            0 => Some(0),
            _ => self
                .bits(4)
                .filter(|bits| (1..=11).contains(bits))
                .map(|bits| 1 << bits),
        }
    }

    /// Reads a picture with one pixel per block of another picture.
    fn blocks(&mut self, width: u64, height: u64) -> Option<u32> {
        let side = 1 << (self.bits(3)? + 2);
        self.small_picture(width.div_ceil(side) * height.div_ceil(side))
    }

    /// Reads a picture of `pixels` pixels and returns the largest number that red and green of one
    /// pixel form. Copied and cached pixels are no larger than their sources.
    fn small_picture(&mut self, pixels: u64) -> Option<u32> {
        let cached = self.cached_colors()?;
        let [green, red, blue, alpha, distance] = self.group(cached)?;
        let (mut count, mut largest) = (0, 0);
        while count < pixels {
            match self.symbol(&green)? {
                level @ 0..256 => {
                    largest = largest.max(u32::from(self.symbol(&red)?) << 8 | u32::from(level));
                    self.symbol(&blue)?;
                    self.symbol(&alpha)?;
                    count += 1;
                }
                length @ 256..280 => {
                    count += self.extended(length - 256)?;
                    let distance = self.symbol(&distance)?;
                    self.extended(distance)?;
                }
                _ => count += 1,
            }
        }
        (count == pixels).then_some(largest)
    }

    /// Reads the number that a symbol and its extra bits encode.
    fn extended(&mut self, symbol: u16) -> Option<u64> {
        if symbol < 4 {
            return Some(u64::from(symbol) + 1);
        }
        let bits = u32::from(symbol - 2) >> 1;
        Some(((2 + u64::from(symbol & 1)) << bits) + u64::from(self.bits(bits)?) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content of a WebP's chunk of this kind.
    fn chunk(name: &str, kind: &[u8]) -> Vec<u8> {
        let file = std::fs::read(format!(
            "{}/tests/fixtures/images/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap();
        let at = file.windows(4).position(|window| window == kind).unwrap();
        file[at + 8..].to_vec()
    }

    #[test]
    fn table_memory_counts_tables_after_transforms_and_groups() {
        // Four groups after three transforms; five after a palette, in a stream without a size.
        // Tables have some kilobytes each.
        let colors = table_memory(&chunk("groups.webp", b"VP8L"), None).unwrap();
        assert!((45_000..60_000).contains(&colors), "{colors}");
        let alpha =
            table_memory(&chunk("alpha_groups.webp", b"ALPH")[1..], Some((192, 128))).unwrap();
        assert!((25_000..35_000).contains(&alpha), "{alpha}");
    }

    #[test]
    fn table_memory_truncated_stream_is_none() {
        let whole = chunk("rgba.webp", b"VP8L");
        let known = table_memory(&whole, None).unwrap();
        for len in 0..whole.len() {
            assert!(
                table_memory(&whole[..len], None).is_none_or(|memory| memory == known),
                "{len}"
            );
        }
        assert_eq!(table_memory(&whole[..5], None), None);
    }
}
