/// Lets many who wait go a few at a time, in the order in which they came (Liveness, rule 19).
///
/// When a node dies, or comes back, thousands of replicas want to speak in the same moment. The host lets them wait
/// here under numbers of its own, and asks who may go. Time is cut into beats; at the beginning of each it is settled how
/// many go in it: so many that whoever has waited longest, and all behind, will be gone when the patience is over, but
/// never more than a bound. Few do not wait at all.
///
/// 1. Whoever came first goes first; nobody waits twice.
/// 2. In a beat at most ``Settings/most`` go, and beats do not overlap.
/// 3. Whoever comes goes within ``Settings/patience``, if it is asked for in every beat and never more than
///    ``Settings/most`` for each beat of the patience wait.
/// 4. There is a deadline exactly while somebody waits.
public struct Pacer: Sendable {
    /// How many, how fast.
    public struct Settings: Sendable {
        /// What the bounds count for.
        public var beat = Interval.milliseconds(10)
        /// Within so long everybody has gone, as far as ``most`` allows; no shorter than a beat.
        public var patience = Interval.milliseconds(300)
        /// So many may go in a beat, though there would be time to spread them.
        public var fewest = 32
        /// No more go in a beat, however many wait.
        public var most = 512
        /// The defaults: 15,360 go within the patience.
        public init() {}
    }

    private let settings: Settings
    /// From `head` on those who wait, and since when.
    private var queue: [(waiter: Int, since: Instant)] = []
    private var head = 0
    /// The same, to be asked whether somebody waits; its order is nobody's business.
    private var present: Set<Int> = []
    private var beatEnd = Instant.distantPast
    /// How many may still go in this beat.
    private var left = 0

    /// Nobody waits.
    public init(settings: Settings = Settings()) {
        precondition(settings.beat.nanoseconds > 0 && settings.patience >= settings.beat)
        precondition(settings.fewest > 0 && settings.most >= settings.fewest)
        self.settings = settings
    }

    /// How many wait.
    public var count: Int { queue.count - head }

    /// When to ask ``next(now:)`` again: at once if that is past, never if it is nil.
    public var deadline: Instant? {
        guard count > 0 else { return nil }
        return left > 0 ? queue[head].since : beatEnd
    }

    /// `waiter` waits from now on, unless it does already. `now` never goes back between calls.
    public mutating func add(_ waiter: Int, now: Instant) {
        guard present.insert(waiter).inserted else { return }
        queue.append((waiter, now))
    }

    /// Who may go now, and waits no more; nil if nobody waits, or this beat has seen enough.
    public mutating func next(now: Instant) -> Int? {
        guard count > 0 else { return nil }
        if now >= beatEnd { startBeat(now) }
        guard left > 0 else { return nil }
        left -= 1
        let waiter = queue[head].waiter
        present.remove(waiter)
        head += 1
        // memory is given back when half of it is behind the head
        if head == queue.count || (head >= 1024 && head * 2 >= queue.count) {
            queue.removeFirst(head)
            head = 0
        }
        return waiter
    }

    /// Whoever was let go last had nothing to do any more: somebody else may go in its place.
    public mutating func giveBack() { left += 1 }

    private mutating func startBeat(_ now: Instant) {
        beatEnd = now + settings.beat
        let patience = (queue[head].since + settings.patience - now).nanoseconds
        let beats = max(1, Int(patience / settings.beat.nanoseconds))
        left = min(settings.most, max(settings.fewest, (count + beats - 1) / beats))
    }
}
