//! A frame as a host's device sends it: where it goes, and what the device left for hardware to do.
//! Pure.

use std::net::Ipv4Addr;

/// An Ethernet header without tags: to, from, type.
pub const ETHERNET: usize = 14;

/// An IPv4 header without options.
const IPV4: usize = 20;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// From and to whom a frame goes; none if it is not a whole IPv4 packet behind an Ethernet header.
#[must_use]
pub fn addresses(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let packet = frame.get(ETHERNET..)?;
    if frame[12..ETHERNET] != [0x08, 0x00] || packet.len() < IPV4 || packet[0] >> 4 != 4 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if length < header(packet) || length > packet.len() {
        return None;
    }
    let address =
        |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    Some((address(12), address(16)))
}

/// Makes a frame one that this device takes for its own, its checksum whole. A virtual device
/// leaves checksums to hardware, which is not there when a program reads its frames.
pub fn deliver_to(frame: &mut [u8], device: [u8; 6]) {
    frame[..6].copy_from_slice(&device);
    if addresses(frame).is_some() {
        complete(&mut frame[ETHERNET..]);
    }
}

const fn header(packet: &[u8]) -> usize {
    let length = (packet[0] & 0x0f) as usize * 4;
    if length < IPV4 { IPV4 } else { length }
}

/// Writes the checksum of the TCP or UDP packet inside; a fragment has none of its own.
fn complete(packet: &mut [u8]) {
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let (begin, protocol) = (header(packet), packet[9]);
    let at = match protocol {
        TCP => begin + 16,
        UDP => begin + 6,
        _ => return,
    };
    if fragment || length < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    // The pseudo header: both addresses, protocol, length.
    let carried = (length - begin) as u64;
    let pseudo = words(&packet[12..20]) + u64::from(protocol) + carried;
    let sum = folded(pseudo + words(&packet[begin..length]));
    // Zero would say "none" in UDP.
    let sum = if protocol == UDP && sum == 0xffff { 0xffff } else { !sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low))).sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP from 10.77.0.1:1000 to 10.77.0.2:2000 with these bytes, its checksum not made.
    fn udp(payload: &[u8]) -> Vec<u8> {
        let length = (IPV4 + 8 + payload.len()) as u16;
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
        frame.extend([0x03, 0xe8, 0x07, 0xd0]);
        frame.extend((length - 20).to_be_bytes());
        frame.extend([0xaa, 0xaa]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn addresses_are_read_of_whole_packets_only() {
        let frame = udp(b"abc");
        let (from, to) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(addresses(&frame), Some((from, to)));
        for length in 0..frame.len() {
            assert_eq!(addresses(&frame[..length]), None, "{length}");
        }
        let mut other = frame.clone();
        other[12] = 0x86;
        assert_eq!(addresses(&other), None, "not IPv4");
    }

    #[test]
    fn a_receiver_finds_the_sum_right() {
        for payload in [&b""[..], b"a", b"ab", b"odd length", &[0xff; 1_400]] {
            let mut frame = udp(payload);
            deliver_to(&mut frame, [2, 0, 0, 0, 0, 9]);
            assert_eq!(frame[..6], [2, 0, 0, 0, 0, 9]);
            let packet = &frame[ETHERNET..];
            let carried = &packet[IPV4..];
            let pseudo = words(&packet[12..20]) + u64::from(UDP) + carried.len() as u64;
            assert_eq!(folded(pseudo + words(carried)), 0xffff, "{payload:?}");
        }
        // By hand, for "ab": 0a4d+0001+0a4d+0002 + 0011+000a + 03e8+07d0+000a+6162 = 81dc.
        let mut frame = udp(b"ab");
        deliver_to(&mut frame, [0; 6]);
        assert_eq!(frame[40..42], (!0x81dc_u16).to_be_bytes());
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        let mut frame = udp(b"abc");
        frame[20] = 0x20;
        let before = frame.clone();
        deliver_to(&mut frame, [0; 6]);
        assert_eq!(frame, before, "a fragment");
        let mut short = vec![1; ETHERNET];
        deliver_to(&mut short, [0; 6]);
        assert_eq!(short[6..], [1; 8]);
    }
}
