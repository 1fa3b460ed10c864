import RaftCore
import Testing

@testable import Transport

@Suite("ReadBuffer")
struct ReadBufferTests {
    /// Puts `count` bytes of a counting sequence into the buffer, in as many reads as it takes.
    private func fill(
        _ buffer: inout ReadBuffer, _ spare: inout ReadBuffer.Spare?, _ count: Int, from value: inout UInt8
    ) {
        var left = count
        while left > 0 {
            let room = buffer.room(sparing: &spare)
            let part = min(left, room.count)
            for position in 0..<part {
                room[position] = value
                value &+= 1
            }
            buffer.append(part)
            left -= part
        }
    }

    @Test("Kept slices are never overwritten, whatever is read and consumed after them") func keptSlices() {
        var random = SeededRandom(seed: 11)
        var buffer = ReadBuffer()
        var spare: ReadBuffer.Spare?
        var (written, read): (UInt8, UInt8) = (0, 0)
        var kept: [(bytes: Bytes, first: UInt8)] = []
        for _ in 0..<400 {
            fill(&buffer, &spare, Int(random.number(in: 1..<9000)), from: &written)
            let consumed = random.number(in: 0..<3) == 0 ? buffer.unreadCount : buffer.unreadCount / 2
            if random.number(in: 0..<4) == 0 { kept.append((buffer.unread.slice(from: 0, count: consumed), read)) }
            if kept.count > 40 { kept.removeFirst() }
            read &+= UInt8(truncatingIfNeeded: consumed)
            buffer.consume(Consumption(consumed: consumed), sparing: &spare)
            for (bytes, first) in kept.suffix(3) {
                let isIntact = bytes.withUnsafeBytes { buffer in
                    buffer.indices.allSatisfy { buffer[$0] == first &+ UInt8(truncatingIfNeeded: $0) }
                }
                #expect(isIntact)
            }
        }
    }

    @Test("A steady flow reuses one slab; an idle connection holds none") func reuse() {
        var buffers = [ReadBuffer(), ReadBuffer()]
        var spare: ReadBuffer.Spare?
        var value: UInt8 = 0
        var slabs: [UnsafeMutableRawPointer] = []
        for turn in 0..<100 {
            slabs.append(buffers[turn % 2].room(sparing: &spare).baseAddress!)
            fill(&buffers[turn % 2], &spare, 1000, from: &value)
            buffers[turn % 2].consume(Consumption(consumed: 1000), sparing: &spare)
        }
        #expect(slabs.allSatisfy { $0 == slabs[0] })
        #expect(spare != nil)
    }

    @Test("A frame of announced size moves once, into room for all of it") func announcedFrame() {
        var buffer = ReadBuffer()
        var spare: ReadBuffer.Spare?
        var value: UInt8 = 0
        fill(&buffer, &spare, 1000, from: &value)
        buffer.consume(Consumption(consumed: 0, needed: 5 << 20), sparing: &spare)
        let room = buffer.room(sparing: &spare)
        #expect(room.count == (5 << 20) - 1000)
        while buffer.unreadCount < 5 << 20 {
            let next = buffer.room(sparing: &spare)
            #expect(next.baseAddress! >= room.baseAddress! && next.baseAddress! < room.baseAddress! + room.count)
            buffer.append(min(next.count, 100_000))
            buffer.consume(Consumption(consumed: 0, needed: 5 << 20), sparing: &spare)
        }
        let expected = (0..<1000).map { UInt8(truncatingIfNeeded: $0) }
        #expect(buffer.unread.slice(from: 0, count: 1000).array == expected)
    }
}
