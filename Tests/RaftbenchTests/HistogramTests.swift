import Testing

@testable import raftbench

@Suite("Histogram of times") struct HistogramTests {
    @Test("quantiles are at most a sixty-fourth too high, and never too low")
    func quantiles() {
        var histogram = Histogram()
        var times: [Int64] = []
        var time: Int64 = 1
        while time < 1 << 40 {
            times += [time, time + time / 3, time * 2 - 1]
            time *= 2
        }
        for time in times { histogram.add(time) }
        times.sort()
        for share in [0.01, 0.1, 0.5, 0.9, 0.99, 1] {
            let exact = times[max(0, Int((Double(times.count) * share).rounded(.up)) - 1)]
            let found = histogram.quantile(share)
            #expect(found >= exact && Double(found) <= Double(exact) * (1 + 1.0 / 64), "\(share): \(found), \(exact)")
        }
        #expect(histogram.count == times.count && histogram.longest == times.last)
    }

    @Test("every time has a bucket", arguments: [-5, 0, 1, 63, 64, 65, 127, 128, 1 << 32, .max - 1, .max] as [Int64])
    func bounds(time: Int64) {
        var histogram = Histogram()
        histogram.add(time)
        #expect(histogram.quantile(0.5) == max(time, 0))
    }

    @Test("nothing was timed") func empty() {
        #expect(Histogram().quantile(0.5) == 0)
    }
}
