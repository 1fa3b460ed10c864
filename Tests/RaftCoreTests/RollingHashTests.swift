import Testing

@testable import RaftCore

@Suite("The hash of what was applied")
struct RollingHashTests {
    static func bytes(_ count: Int, seed: UInt64) -> [UInt8] {
        var random = SeededRandom(seed: seed)
        return (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    static func hash(_ fields: [[UInt8]]) -> UInt64 {
        var hash = RollingHash()
        for field in fields { hash.combine(Bytes(field)) }
        return hash.value
    }

    @Test("Stored values depend on the steps, which therefore never change under one version")
    func golden() {
        #expect(RollingHash.version == 1)
        #expect(RollingHash().value == 0x6a09_e667_f3bc_c908)
        var hash = RollingHash()
        hash.combine(1)
        #expect(hash.value == 14394319584284130520)
        #expect(RollingHashTests.hash([Array("replica".utf8)]) == 11715622962062458119)
        #expect(RollingHashTests.hash([Array(0..<77)]) == 8755087122142781822)
    }

    @Test func everyByteAndEveryBorderCounts() {
        for count in [1, 7, 8, 9, 31, 32, 33, 64, 77, 128] {
            let bytes = RollingHashTests.bytes(count, seed: UInt64(count))
            let whole = RollingHashTests.hash([bytes])
            var seen: Set<UInt64> = [whole]
            for place in 0..<count {
                for bit in 0..<8 {
                    var changed = bytes
                    changed[place] ^= 1 << UInt8(bit)
                    seen.insert(RollingHashTests.hash([changed]))
                }
                seen.insert(RollingHashTests.hash([Array(bytes[..<place]), Array(bytes[place...])]))
            }
            seen.insert(RollingHashTests.hash([bytes + [0]]))
            #expect(seen.count == 1 + 9 * count + 1)
        }
        // where the bytes lie does not count
        let bytes = RollingHashTests.bytes(50, seed: 3)
        var hash = RollingHash()
        hash.combine(Bytes([9] + bytes).suffix(from: 1))
        #expect(hash.value == RollingHashTests.hash([bytes]))
    }

    @Test("Once two replicas differ, no equal entries bring their hashes together again")
    func aDifferenceStays() {
        var random = SeededRandom(seed: 5)
        for _ in 0..<200 {
            var left = RollingHash(value: random.next())
            var right = RollingHash(value: left.value ^ (1 << (random.next() % 64)))
            for _ in 0..<200 {
                let bytes = Bytes(RollingHashTests.bytes(Int(random.next() % 80), seed: random.next()))
                left.combine(bytes)
                right.combine(bytes)
                #expect(left.value != right.value)
            }
        }
    }

    @Test("The trail remembers the newest entries and the marks, as a list of all of them says, and nothing else")
    func trail() throws {
        for start: Int64 in [0, 5, 250, 256, 5000] {
            var trail = AppliedHashTrail(at: LogIndex(start), value: 77)
            var all: [Int64: UInt64] = [start: 77]
            for index in start + 1...start + 6000 {
                let entry = CommittedEntry(
                    position: LogPosition(term: Term(1), index: LogIndex(index)), kind: .noOp, payload: Bytes())
                trail.add(entry, result: Bytes())
                all[index] = trail.value
                guard index % 997 == 0 || index == start + 6000 else { continue }
                let right = (max(0, index - 5500)...index + 2).allSatisfy { asked in
                    let isNewest = index - asked < 16
                    let isMark = asked % 256 == 0 && index / 256 - asked / 256 < 16
                    let expected = asked <= index && (isNewest || isMark) ? all[asked] : nil
                    return trail.value(at: LogIndex(asked)) == expected
                }
                #expect(right)
            }
        }
    }
}
