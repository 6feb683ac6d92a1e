package io.github.skimstone;

/** Is told what happens while a question is answered, on the thread that asked. */
public interface EventListener {
    /** Returns whether to go on; false cancels. What it throws comes out of {@link Session#generate}. */
    boolean onEvent(Event event);
}
