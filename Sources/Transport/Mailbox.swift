internal import CUV

/// Work for a lane from other threads. The only thing that crosses threads; its lock is held for a few instructions.
final class Mailbox: @unchecked Sendable {
    typealias Work = @Sendable () -> Void

    private struct State {
        var waiting: [Work] = []
        var isOpen = true
    }

    private let state = PosixLock(State())
    /// Closed under the lock, so that nobody wakes a freed handle.
    private let wake: UnsafeMutablePointer<uv_async_t>
    /// Emptied by the lane and swapped back in, so that a steady flow allocates nothing.
    private var drained: [Work] = []

    init(_ core: LoopCore) throws(TransportError) {
        wake = .allocate(capacity: 1)
        let result = uv_async_init(core.loop, wake) { handle in
            Unmanaged<Mailbox>.fromOpaque(handle!.pointee.data).takeUnretainedValue().runWaiting()
        }
        guard result == 0 else {
            wake.deallocate()
            throw TransportError(call: "uv_async_init", code: result)
        }
        wake.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    }

    /// Hands `work` to the lane; forgotten if the lane has stopped. Any thread.
    func post(_ work: @escaping Work) {
        state.withLock { state in
            guard state.isOpen else { return }
            state.waiting.append(work)
            if state.waiting.count == 1 { uv_async_send(wake) }
        }
    }

    /// Runs what is there now; what this work posts waits for the next round. On the lane.
    private func runWaiting() {
        state.withLock { swap(&$0.waiting, &drained) }
        for work in drained { work() }
        drained.removeAll(keepingCapacity: true)
    }

    /// Forgets what waits and accepts nothing more. On the lane.
    func close() {
        let forgotten = state.withLock { state in
            state.isOpen = false
            defer { state.waiting = [] }
            return state.waiting
        }
        closeAndFree(wake)
        withExtendedLifetime(forgotten) {}
    }
}
