import RaftCore
import Testing

@Suite("Bytes are compared as arrays of bytes are")
struct BytesTests {
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func orderAndEquality(_ seed: UInt64) {
        var random = SeededRandom(seed: seed)
        // few values and much in common, so that they often differ late or not at all; at any place in their memory
        func some() -> [UInt8] {
            (0..<random.number(in: 0..<28)).map { position in
                random.number(in: 0..<12) == 0 ? UInt8(random.number(in: 0..<256)) : UInt8(position)
            }
        }
        func bytes(_ array: [UInt8]) -> Bytes {
            let before = Int(random.number(in: 0..<9))
            return Bytes([UInt8](repeating: 7, count: before) + array + [9]).slice(from: before, count: array.count)
        }
        var equal = 0
        for _ in 0..<20_000 {
            let (left, right) = (some(), some())
            #expect((bytes(left) == bytes(right)) == (left == right))
            #expect((bytes(left) < bytes(right)) == left.lexicographicallyPrecedes(right))
            equal += left == right ? 1 : 0
        }
        #expect(equal > 10)
    }
}
