internal import CUV

/// The libuv loop itself and the switch that keeps its next poll from sleeping. Everything that lives on the lane
/// holds it; the ``EventLoop`` closes it.
final class LoopCore {
    /// Valid until ``close()``.
    let loop: UnsafeMutablePointer<uv_loop_t>
    /// False once the lane has stopped; then no handle may be made any more.
    private(set) var isOpen = true
    /// While active, libuv polls without waiting.
    private let sleepless: UnsafeMutablePointer<uv_idle_t>

    init() throws(TransportError) {
        loop = .allocate(capacity: 1)
        let result = uv_loop_init(loop)
        guard result == 0 else {
            loop.deallocate()
            throw TransportError(call: "uv_loop_init", code: result)
        }
        sleepless = .allocate(capacity: 1)
        uv_idle_init(loop, sleepless)
    }

    deinit { precondition(!isOpen, "a loop core is closed by its event loop") }

    /// The next poll returns at once, so that a turn follows.
    func requestTurn() {
        guard isOpen else { return }
        uv_idle_start(sleepless) { _ in }
    }

    /// The requested turn begins.
    func turnBegins() { uv_idle_stop(sleepless) }

    /// Lets no more handles be made; those that exist are to be closed now.
    func beginClosing() { isOpen = false }

    /// Waits for the close callbacks of all handles and frees the loop.
    func finishClosing() {
        precondition(!isOpen)
        closeAndFree(sleepless)
        uv_run(loop, UV_RUN_DEFAULT)
        let result = uv_loop_close(loop)
        precondition(result == 0, "a handle was left open when the loop closed")
        loop.deallocate()
    }
}

/// Closes a handle that has no owner to tell, and frees its memory in the close callback.
func closeAndFree<H>(_ handle: UnsafeMutablePointer<H>) {
    uv_close(handle.viewed(as: uv_handle_t.self)) { handle in
        UnsafeMutableRawPointer(handle!).deallocate()
    }
}

extension UnsafeMutablePointer {
    /// libuv's handles begin alike; this is C's cast to the common part.
    func viewed<T>(as type: T.Type) -> UnsafeMutablePointer<T> {
        UnsafeMutableRawPointer(self).assumingMemoryBound(to: type)
    }
}

extension TransportError {
    /// A libuv call failed with `code`, a negated errno.
    init(call: String, code: Int32) {
        self = .system(call: call, errno: -code, message: String(cString: uv_strerror(code)))
    }
}
