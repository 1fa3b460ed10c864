internal import CUV
internal import Glibc
public import RaftCore

/// A lane on libuv: one thread that polls, then takes one turn, then polls again.
///
/// A round is: poll → callbacks of whatever happened (bytes, posted work, signals) → the turn → one flush per
/// connection that has something to send. Everything here belongs to the thread that calls ``run()``; what is made
/// before, by whichever thread, becomes that thread's. Only ``post(_:)`` may be called from anywhere.
public final class EventLoop: LaneDriver, @unchecked Sendable {
    /// The machine's clocks.
    public let clock: any NodeClock = SystemClock()

    private let core: LoopCore
    private let mailbox: Mailbox
    private let afterPoll: UnsafeMutablePointer<uv_check_t>
    private let alarm: UnsafeMutablePointer<uv_timer_t>
    private var alarmTime: Instant?
    private var networks: [UVNetwork] = []
    private var signalHandles: [UnsafeMutablePointer<uv_signal_t>] = []
    private var signalHandler: ((Int32) -> Void)?
    private var turn: ((Instant) -> Instant?)?

    /// A loop that does not run yet. Broken pipes become errors of their connections: SIGPIPE is ignored from here on.
    public init() throws(TransportError) {
        signal(SIGPIPE, SIG_IGN)
        let core = try LoopCore()
        do {
            mailbox = try Mailbox(core)
        } catch {
            core.beginClosing()
            core.finishClosing()
            throw error
        }
        self.core = core
        afterPoll = .allocate(capacity: 1)
        alarm = .allocate(capacity: 1)
        uv_check_init(core.loop, afterPoll)
        uv_timer_init(core.loop, alarm)
        // The handles die before this object does, so they need not keep it alive.
        afterPoll.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        alarm.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        uv_check_start(afterPoll) { handle in
            Unmanaged<EventLoop>.fromOpaque(handle!.pointee.data).takeUnretainedValue().takeTurn()
        }
    }

    deinit { shutDown() }

    // MARK: running

    /// Runs the lane on the calling thread until ``stop()``; then closes every connection (their handlers hear it) and
    /// forgets posted work. Once only.
    public func run() {
        precondition(core.isOpen, "an event loop runs once")
        requestTurn()
        uv_run(core.loop, UV_RUN_DEFAULT)
        shutDown()
    }

    /// Makes ``run()`` return after this turn. On the lane; from elsewhere, post it.
    public func stop() {
        guard core.isOpen else { return }
        uv_stop(core.loop)
    }

    /// Calls `turn` once after the callbacks of each poll, with the current time, and at the latest when the returned
    /// deadline has come, rounded up to a millisecond.
    public func setTurn(_ turn: @escaping (Instant) -> Instant?) {
        self.turn = turn
        requestTurn()
    }

    /// Makes a turn happen soon although no input came. On the lane.
    public func requestTurn() { core.requestTurn() }

    /// Runs `work` on the lane, in order; forgotten if the lane has stopped. Any thread.
    public func post(_ work: @escaping @Sendable () -> Void) { mailbox.post(work) }

    // MARK: making

    /// The sockets of this lane.
    public func makeNetwork() -> UVNetwork {
        let network = UVNetwork(core, clock)
        networks.append(network)
        return network
    }

    /// A worker with a thread of its own, called `name` (15 bytes are kept), whose completions come back here.
    public func makeWorker(name: String) -> ThreadWorker { ThreadWorker(name: name, mailbox: mailbox) }

    /// Calls `handler` on the lane when the process receives one of `signals`. Replaces an earlier handler.
    public func onSignals(_ signals: [Int32], _ handler: @escaping (Int32) -> Void) {
        closeSignals()
        signalHandler = handler
        for number in signals {
            let handle = UnsafeMutablePointer<uv_signal_t>.allocate(capacity: 1)
            uv_signal_init(core.loop, handle)
            handle.pointee.data = Unmanaged.passUnretained(self).toOpaque()
            signalHandles.append(handle)
            let result = uv_signal_start(
                handle,
                { handle, number in
                    Unmanaged<EventLoop>.fromOpaque(handle!.pointee.data).takeUnretainedValue().signalHandler?(number)
                }, number)
            precondition(result == 0, "signal \(number) cannot be watched")
        }
    }
}

extension EventLoop {
    private func takeTurn() {
        core.turnBegins()
        var deadline = turn?(clock.now)
        for network in networks {
            network.flush()
            if let next = network.nextDeadline { deadline = min(deadline ?? next, next) }
        }
        arm(for: deadline)
    }

    private func arm(for deadline: Instant?) {
        guard let deadline else {
            if alarmTime != nil { uv_timer_stop(alarm) }
            alarmTime = nil
            return
        }
        let now = clock.now
        guard deadline > now else { return requestTurn() }
        guard deadline != alarmTime else { return }
        alarmTime = deadline
        // A day at most, so that the sum with libuv's clock cannot overflow; the turn then asks again.
        let remaining = min((deadline - now).nanoseconds, 86_400_000_000_000)
        // libuv counts from its idea of now, which may be as old as the turn is long.
        uv_update_time(core.loop)
        uv_timer_start(
            alarm,
            { handle in
                Unmanaged<EventLoop>.fromOpaque(handle!.pointee.data).takeUnretainedValue().alarmRings()
            }, UInt64(remaining + 999_999) / 1_000_000, 0)
    }

    /// Timers may run before the poll, which must then not sleep: the turn comes after it.
    private func alarmRings() {
        alarmTime = nil
        requestTurn()
    }

    private func closeSignals() {
        for handle in signalHandles { closeAndFree(handle) }
        signalHandles = []
    }

    private func shutDown() {
        guard core.isOpen else { return }
        core.beginClosing()
        mailbox.close()
        for network in networks { network.shutDown() }
        closeSignals()
        closeAndFree(afterPoll)
        closeAndFree(alarm)
        core.finishClosing()
        turn = nil
        signalHandler = nil
    }
}
