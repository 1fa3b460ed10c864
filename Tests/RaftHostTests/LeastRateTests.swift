import RaftCore
import Testing

@testable import RaftHost

@Suite("The least rate of a source")
struct LeastRateTests {
    private let begin = Instant(nanoseconds: 1_000_000_000_000)
    private func at(_ seconds: Int) -> Instant { begin + .milliseconds(1000 * seconds) }
    private func begun() -> LeastRate {
        var rate = LeastRate(of: 100, in: .milliseconds(60_000))
        rate.resume(begin)
        return rate
    }

    @Test("Enough bytes earn another patience, however they come") func bytes() {
        var rate = begun()
        #expect(rate.deadline == at(60))
        for second in 1...3 { rate.take(33, now: at(second)) }
        #expect(rate.deadline == at(60))
        rate.take(1, now: at(50))
        #expect(rate.deadline == at(110))
        // what was too much is not saved up
        rate.take(99, now: at(51))
        #expect(rate.deadline == at(110))
    }

    @Test("Beginning anew renews nothing, and a pause costs nothing") func pauses() {
        var rate = begun()
        rate.resume(at(50))
        #expect(rate.deadline == at(60))
        rate.pause(at(50))
        rate.pause(at(55))
        #expect(rate.deadline == nil)
        rate.take(1000, now: at(56))
        rate.resume(at(1000))
        #expect(rate.deadline == at(1010))
    }

    @Test("What others kept it waiting for is not its fault") func excuses() {
        var rate = begun()
        rate.excuse(.milliseconds(5000))
        #expect(rate.deadline == at(65))
    }
}
