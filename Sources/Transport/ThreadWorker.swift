internal import CUV
internal import Glibc

/// A thread of its own for work that blocks: the disk, the state machines.
///
/// Jobs run in the order of submission. Completions run on the lane, in the same order; those of jobs that finish
/// while the lane is busy reach it together. After the loop has stopped, jobs still run but completions do not.
public final class ThreadWorker: Worker, @unchecked Sendable {
    private let queue: JobQueue
    private let thread: pthread_t
    private var hasEnded = false

    init(name: String, mailbox: Mailbox) {
        let queue = JobQueue(name: name, mailbox: mailbox)
        var thread = pthread_t()
        let result = pthread_create(
            &thread, nil,
            { context in
                Unmanaged<JobQueue>.fromOpaque(context!).takeRetainedValue().serve()
                return nil
            }, Unmanaged.passRetained(queue).toOpaque())
        precondition(result == 0, "no thread for the worker \(name) (errno \(result))")
        self.queue = queue
        self.thread = thread
    }

    /// Waits until every submitted job has run.
    deinit {
        guard !hasEnded else { return }
        queue.finish()
        // The last reference may die inside a job of this very worker.
        if pthread_equal(thread, pthread_self()) != 0 {
            pthread_detach(thread)
        } else {
            pthread_join(thread, nil)
        }
    }

    /// Returns when every submitted job has run and the thread has ended. The owner's last call, from outside the jobs.
    public func finish() {
        guard !hasEnded else { return }
        hasEnded = true
        queue.finish()
        pthread_join(thread, nil)
    }

    /// Runs `job` on the worker's thread after all earlier ones, then `completion` on the lane. Any thread.
    public func submit(_ job: @escaping @Sendable () -> Void, completion: @escaping @Sendable () -> Void) {
        queue.append(job, completion)
    }
}

/// What the lane and the worker's thread share; outlives whichever goes first.
private final class JobQueue: @unchecked Sendable {
    private struct Job {
        var run: @Sendable () -> Void
        var completion: @Sendable () -> Void
    }

    private let name: String
    private let mailbox: Mailbox
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var waiting: [Job] = []
    private var isFinishing = false

    init(name: String, mailbox: Mailbox) {
        self.name = name
        self.mailbox = mailbox
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(changed, nil)
    }

    deinit {
        pthread_cond_destroy(changed)
        pthread_mutex_destroy(mutex)
        changed.deallocate()
        mutex.deallocate()
    }

    func append(_ run: @escaping @Sendable () -> Void, _ completion: @escaping @Sendable () -> Void) {
        pthread_mutex_lock(mutex)
        waiting.append(Job(run: run, completion: completion))
        pthread_cond_signal(changed)
        pthread_mutex_unlock(mutex)
    }

    func finish() {
        pthread_mutex_lock(mutex)
        isFinishing = true
        pthread_cond_signal(changed)
        pthread_mutex_unlock(mutex)
    }

    /// The thread's life: all waiting jobs at a time, until finished and empty.
    func serve() {
        cuv_name_this_thread(name)
        while let jobs = next() {
            for job in jobs {
                job.run()
                mailbox.post(job.completion)
            }
        }
    }

    private func next() -> [Job]? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while waiting.isEmpty && !isFinishing { pthread_cond_wait(changed, mutex) }
        guard !waiting.isEmpty else { return nil }
        defer { waiting = [] }
        return waiting
    }
}
