//! Buffers in large pages of memory, which are read faster: a processor looks up one address where
//! it would look up 512.

use std::{
    mem,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};

use super::team::for_items;

/// Bytes of a large page.
const PAGE: usize = 2 << 20;

/// Bytes that are reserved at a time for buffers; only pages that are used take memory.
const AREA: usize = 32 << 20;

/// Buffers begin at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// What is left of the newest area.
static FREE: Mutex<Option<BytesMut>> = Mutex::new(None);

/// Returns a buffer of `len` zeros.
pub(crate) fn zeros(len: usize) -> BytesMut {
    buffer(len, |part, out| out.resize(part.len(), 0))
}

/// Copies `bytes` into large pages.
pub(crate) fn copy(bytes: &[u8]) -> Bytes {
    buffer(bytes.len(), |part, out| out.extend_from_slice(&bytes[part])).freeze()
}

/// Returns a buffer whose parts `fill` has written, in parallel: the system clears a page when it
/// is touched first, which takes longer than the copy.
fn buffer(len: usize, fill: impl Fn(Range<usize>, &mut BytesMut) + Sync) -> BytesMut {
    let mut rest = reserve(len);
    let mut parts: Vec<BytesMut> = (0..len.div_ceil(PAGE))
        .map(|_| {
            let after = rest.split_off(PAGE.min(rest.capacity()));
            mem::replace(&mut rest, after)
        })
        .collect();
    for_items(&mut parts, |i, part| {
        let start = i * PAGE;
        fill(start..len.min(start + PAGE), part);
    });
    let mut parts = parts.into_iter();
    let mut whole = parts.next().unwrap_or_default();
    parts.for_each(|part| whole.unsplit(part));
    whole
}

/// Reserves memory for `len` bytes. Small buffers share pages; an area is freed with its last one.
fn reserve(len: usize) -> BytesMut {
    let size = len.next_multiple_of(ALIGNMENT);
    if size > AREA / 4 {
        return area(size);
    }
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut from = match free.take() {
        Some(left) if left.capacity() >= size => left,
        _ => area(AREA),
    };
    *free = Some(from.split_off(size));
    from
}

/// Reserves an area that begins at a large page, without touching it.
fn area(size: usize) -> BytesMut {
    let size = size.next_multiple_of(PAGE);
    let mut whole = BytesMut::with_capacity(size + PAGE);
    let skipped = whole.as_ptr().align_offset(PAGE);
    let area = whole.split_off(skipped.min(PAGE));
    #[cfg(target_os = "linux")]
    {
        let start = area.as_ptr().cast_mut().cast();
        // SAFETY: The advice changes neither the contents of memory nor what may be done with it;
        // the range lies within the area, whose capacity is `size` at least.
        #[allow(unsafe_code)]
        let advised =
            unsafe { rustix::mm::madvise(start, size, rustix::mm::Advice::LinuxHugepage) };
        if let Err(error) = advised {
            tracing::debug!(%error, "weights lie in small pages");
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 8] = [1, 64, 100_000, AREA / 4, AREA / 4 + 1, AREA + 5, 0, 3 << 20];

    #[test]
    fn buffers_are_zeros_and_do_not_overlap() {
        let sizes = || SIZES.into_iter().cycle().take(4 * SIZES.len());
        let mut buffers: Vec<BytesMut> = sizes().map(zeros).collect();
        for (i, (buffer, size)) in buffers.iter_mut().zip(sizes()).enumerate() {
            assert_eq!(buffer.len(), size);
            assert!(size == 0 || buffer.as_ptr().align_offset(ALIGNMENT) == 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(i as u8 + 1);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|&byte| byte == i as u8 + 1));
        }
    }

    #[test]
    fn copies_are_equal() {
        for size in SIZES {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            assert!(copy(&bytes) == bytes, "{size} bytes");
        }
    }
}
