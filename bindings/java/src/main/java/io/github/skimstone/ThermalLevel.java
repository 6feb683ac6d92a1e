package io.github.skimstone;

/** How hot the device is, for {@link Model#setThermal}: the hotter, the less effort goes into a question. */
public enum ThermalLevel {
    /** Not hot: everything as asked. */
    NOMINAL,
    /** Warm. */
    FAIR,
    /** Hot. */
    SERIOUS,
    /** About to be stopped by the system. */
    CRITICAL;

    /**
     * Of Android's thermal status, as {@code PowerManager.OnThermalStatusChangedListener} tells it: light is fair, moderate and severe
     * are serious, everything beyond is critical.
     */
    public static ThermalLevel ofAndroidStatus(int status) {
        if (status <= 0) { // THERMAL_STATUS_NONE
            return NOMINAL;
        }
        // THERMAL_STATUS_LIGHT is 1, _SEVERE 3.
        return status == 1 ? FAIR : status <= 3 ? SERIOUS : CRITICAL;
    }
}
