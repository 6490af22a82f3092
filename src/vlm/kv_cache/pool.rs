//! Pool of reference-counted blocks.

/// Blocks `0..len`, each free or with a number of owners.
#[derive(Debug)]
pub(super) struct BlockPool {
    /// Free blocks; the one freed last is taken first, so that few are ever touched.
    free: Vec<u32>,
    owners: Vec<u32>,
}

impl BlockPool {
    pub(super) fn new(len: usize) -> Self {
        Self {
            free: (0..len as u32).rev().collect(),
            owners: vec![0; len],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Returns the number of free blocks.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free block for one owner.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.owners[block as usize] = 1;
        Some(block)
    }

    /// Adds an owner to each of `blocks`.
    pub(super) fn share(&mut self, blocks: &[u32]) {
        blocks
            .iter()
            .for_each(|&block| self.owners[block as usize] += 1);
    }

    /// Removes an owner from each of `blocks`; those without one are free.
    pub(super) fn release(&mut self, blocks: &[u32]) {
        for &block in blocks.iter().rev() {
            let owners = &mut self.owners[block as usize];
            *owners -= 1;
            if *owners == 0 {
                self.free.push(block);
            }
        }
    }

    /// Returns `true` if a block has more than one owner.
    pub(super) fn is_shared(&self, block: u32) -> bool {
        self.owners[block as usize] > 1
    }
}
