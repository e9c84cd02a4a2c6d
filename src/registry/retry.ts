import { type OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Clock } from "./clock.js";
import { isRetryable, RegistryError } from "./registry-error.js";

export interface RetryPolicy {
  /** How long after the start, or after the last progress, a new attempt may begin. */
  readonly timeoutMs: number;
  /** The first pause is random in [0, this), the next ones twice as long each. */
  readonly baseDelayMs: number;
  readonly maxDelayMs: number;
}

export const defaultRetryPolicy: RetryPolicy = { timeoutMs: 60_000, baseDelayMs: 200, maxDelayMs: 10_000 };

/**
 * The attempts of one operation: exponential backoff with full jitter, Retry-After honoured but capped by the deadline, at
 * most `limits.attempts` without progress. The deadline says when the last attempt may begin; how long an attempt takes is
 * bounded by the transport's own timeouts.
 */
export class RetryBudget {
  readonly #policy: RetryPolicy;
  readonly #clock: Clock;
  #deadlineMs: number;
  #failures = 0;

  constructor(policy: RetryPolicy, clock: Clock) {
    this.#policy = policy;
    this.#clock = clock;
    this.#deadlineMs = clock.nowMs() + policy.timeoutMs;
  }

  /** New bytes arrived: the server works, so the series of failures is over. */
  progress(): void {
    this.#failures = 0;
    this.#deadlineMs = this.#clock.nowMs() + this.#policy.timeoutMs;
  }

  /** Waits until the next attempt may begin, or throws: `error` itself when trying again cannot help or time is up. */
  async wait(error: unknown, signal?: AbortSignal): Promise<void> {
    if (!isRetryable(error)) throw error;
    this.#failures += 1;
    const leftMs = this.#deadlineMs - this.#clock.nowMs();
    if (leftMs <= 0 || this.#failures >= limits.attempts) throw this.#exhausted(error);
    const ceilingMs = Math.min(this.#policy.maxDelayMs, this.#policy.baseDelayMs * 2 ** (this.#failures - 1));
    const delayMs = Math.max(error.retryAfterMs ?? 0, this.#clock.random() * ceilingMs);
    await this.#clock.sleep(Math.min(delayMs, leftMs), signal);
  }

  #exhausted(error: RegistryError): OcifsError {
    const tries = this.#failures === 1 ? "" : `; gave up after ${this.#failures} attempts`;
    return new RegistryError(error.code, `${error.message}${tries}`, {
      cause: error,
      retryAfterMs: error.retryAfterMs,
      ...(error.status === undefined ? {} : { status: error.status }),
    });
  }
}

/** Runs `attempt` until it succeeds or the budget is used up; `onRetry` is told of every attempt after the first. */
export async function withRetry<T>(
  budget: RetryBudget,
  operation: string,
  signal: AbortSignal | undefined,
  onRetry: () => void,
  attempt: () => Promise<T>,
): Promise<T> {
  for (;;) {
    throwIfAborted(signal, operation);
    try {
      return await attempt();
    } catch (error) {
      await budget.wait(error, signal);
      onRetry();
    }
  }
}

/** Milliseconds that a Retry-After header asks to wait: seconds or an HTTP date (RFC 9110 10.2.3); undefined if neither. */
export function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  if (!/^[A-Za-z]{3,9},? /.test(text)) return undefined;
  const dateMs = Date.parse(text);
  return Number.isNaN(dateMs) ? undefined : Math.max(0, dateMs - nowMs);
}
