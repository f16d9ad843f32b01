//! Protobuf messages, changed field by field.
//!
//! Turns bytes into a tree of fields by the wire format alone, changes one of its nodes, and writes it again. It knows no
//! schema: what has the form of a message is taken for one. Numbers come from elsewhere in the input as often as not, so that
//! ids keep naming something.
//!
//! Example: of `08 07 12 02 08 05` (field 1: 7; field 2: a message with field 1: 5) one change makes `08 05 12 02 08 05`.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`; 0 below 0.
    pub fn below(&mut self, sides: usize) -> usize {
        self.roll().checked_rem(sides as u64).unwrap_or(0) as usize
    }

    /// Whether the one of so many cases has come.
    pub fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    /// One of the list.
    pub fn of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }

    /// Another number in place of `old`: one of the pool, one near by, one at an edge.
    pub fn number(&mut self, old: u64, pool: &[u64]) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            0x7f,
            0xff,
            0xfff,
            0x1000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_f000,
            0x8000_0000_0000,
            i64::MAX as u64,
            i64::MIN as u64,
            u64::MAX,
        ];
        match self.below(8) {
            0..3 => self.of(pool).copied().unwrap_or(old),
            3 => self.of(&EDGES).copied().unwrap_or(old),
            4 => old.wrapping_add(1),
            5 => old.wrapping_sub(1),
            6 => old ^ 1u64.wrapping_shl(self.below(64) as u32),
            _ => {
                let edge = self.of(&EDGES).copied().unwrap_or(old);
                let near = self.below(3) as u64;
                edge.wrapping_sub(near.wrapping_mul(if self.one_in(2) { 1 } else { 0x1000 }))
            }
        }
    }
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A varint.
    Number(u64),
    /// Eight bytes.
    Eight([u8; 8]),
    /// Four bytes.
    Four([u8; 4]),
    /// Bytes of no further form.
    Bytes(Vec<u8>),
    /// Bytes that have the form of a message.
    Message(Message),
}

/// A message: its fields by number, in their order.
pub type Message = Vec<(u32, Value)>;

/// Messages within each other, at most; deeper ones are bytes.
const DEPTH_MAX: u32 = 8;

/// The message that these bytes are; `None` if writing it again would not give the same bytes.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let message = parse_within(bytes, 0)?;
    (write(&message) == bytes).then_some(message)
}

fn parse_within(mut rest: &[u8], depth: u32) -> Option<Message> {
    let mut message = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number != 0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Eight(rest.split_off(..8)?.try_into().ok()?),
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                let bytes = rest.split_off(..len)?;
                let inner = (!bytes.is_empty() && depth < DEPTH_MAX).then(|| parse_within(bytes, depth + 1));
                match inner.flatten().filter(|inner| write(inner) == bytes) {
                    Some(inner) => Value::Message(inner),
                    None => Value::Bytes(bytes.to_vec()),
                }
            }
            5 => Value::Four(rest.split_off(..4)?.try_into().ok()?),
            _ => return None,
        };
        message.push((number, value));
    }
    Some(message)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes of a message.
pub fn write(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, value) in message {
        let key = u64::from(*number) << 3;
        match value {
            Value::Number(value) => {
                put(key, &mut out);
                put(*value, &mut out);
            }
            Value::Eight(bytes) => {
                put(key | 1, &mut out);
                out.extend_from_slice(bytes);
            }
            Value::Four(bytes) => {
                put(key | 5, &mut out);
                out.extend_from_slice(bytes);
            }
            Value::Bytes(bytes) => {
                put(key | 2, &mut out);
                put(bytes.len() as u64, &mut out);
                out.extend_from_slice(bytes);
            }
            Value::Message(inner) => {
                let bytes = write(inner);
                put(key | 2, &mut out);
                put(bytes.len() as u64, &mut out);
                out.extend_from_slice(&bytes);
            }
        }
    }
    out
}

/// The number of a field, the last one with it.
pub fn number(message: &Message, field: u32) -> Option<u64> {
    message.iter().rev().find_map(|(number, value)| match value {
        Value::Number(value) if *number == field => Some(*value),
        Value::Number(_) | Value::Eight(_) | Value::Four(_) | Value::Bytes(_) | Value::Message(_) => None,
    })
}

/// Puts all numbers of a message into `pool`.
pub fn numbers(message: &Message, pool: &mut Vec<u64>) {
    for (_, value) in message {
        match value {
            Value::Number(value) => pool.push(*value),
            Value::Message(inner) => numbers(inner, pool),
            Value::Eight(_) | Value::Four(_) | Value::Bytes(_) => {}
        }
    }
}

/// How many nodes a message has: its fields, and those within.
fn count(message: &Message) -> usize {
    let within = |value: &Value| match value {
        Value::Message(inner) => count(inner),
        Value::Number(_) | Value::Eight(_) | Value::Four(_) | Value::Bytes(_) => 0,
    };
    message.iter().map(|(_, value)| 1 + within(value)).sum()
}

/// Changes one node of a message.
pub fn change(message: &mut Message, dice: &mut Dice, pool: &[u64]) {
    let nodes = count(message);
    if nodes == 0 {
        message.push((1 + dice.below(8) as u32, Value::Number(dice.number(0, pool))));
        return;
    }
    let mut node = dice.below(nodes);
    change_node(message, &mut node, dice, pool);
}

/// Changes the node that is so many further on; whether it was within.
fn change_node(message: &mut Message, node: &mut usize, dice: &mut Dice, pool: &[u64]) -> bool {
    for at in 0..message.len() {
        if *node == 0 {
            change_field(message, at, dice, pool);
            return true;
        }
        *node -= 1;
        if let Value::Message(inner) = &mut message[at].1
            && change_node(inner, node, dice, pool)
        {
            return true;
        }
    }
    false
}

fn change_field(message: &mut Message, at: usize, dice: &mut Dice, pool: &[u64]) {
    match dice.below(12) {
        0 => {
            message.remove(at);
        }
        1 => {
            let copy = message[at].clone();
            let to = dice.below(message.len() + 1);
            message.insert(to, copy);
        }
        2 => {
            let other = dice.below(message.len());
            message.swap(at, other);
        }
        3 => {
            let number = message[at].0;
            message[at].0 = (number as usize + 1).saturating_sub(dice.below(3)).clamp(1, 40) as u32;
        }
        4 => {
            let field = (1 + dice.below(20) as u32, Value::Number(dice.number(0, pool)));
            message.insert(at, field);
        }
        5 => {
            // As many of a repeated field as there could be of it.
            let copy = message[at].clone();
            for _ in 0..dice.below(40) {
                message.insert(at, copy.clone());
            }
        }
        _ => match &mut message[at].1 {
            Value::Number(value) => *value = dice.number(*value, pool),
            Value::Eight(bytes) => *bytes = dice.number(u64::from_le_bytes(*bytes), pool).to_le_bytes(),
            Value::Four(bytes) => {
                *bytes = (dice.number(u32::from_le_bytes(*bytes).into(), pool) as u32).to_le_bytes();
            }
            Value::Bytes(bytes) => change_bytes(bytes, dice),
            Value::Message(inner) => change(inner, dice, pool),
        },
    }
}

/// Changes a few bytes.
pub fn change_bytes(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, b"/\0.a0\xff"[dice.below(6)]),
        2 => bytes.extend_from_within(at..),
        3 if !bytes.is_empty() => {
            bytes.remove(at);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.number(u64::from(*byte), &[0, 0xff, u64::from(b'/')]) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let bytes = [8, 7, 18, 2, 8, 5, 26, 3, 255, 255, 255, 33, 1, 2, 3, 4, 5, 6, 7, 8, 45, 1, 2, 3, 4];
        let message = parse(&bytes).unwrap();
        assert_eq!(message[1], (2, Value::Message(vec![(1, Value::Number(5))])));
        assert_eq!(write(&message), bytes);
        assert_eq!((count(&message), number(&message, 1)), (6, Some(7)));
        assert_eq!(parse(&[8]), None);
        assert_eq!(parse(&[8, 0x80, 0]), None, "not how it would be written");
    }

    #[test]
    fn a_change_changes() {
        let before = parse(&[8, 7, 18, 2, 8, 5]).unwrap();
        let changed = (0..100).filter(|seed| {
            let mut after = before.clone();
            change(&mut after, &mut Dice(*seed), &[5, 7, 9]);
            after != before
        });
        assert!(changed.count() > 70);
    }
}
