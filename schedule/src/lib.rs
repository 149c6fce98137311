//! In what order: actions, pipeline policies, lowering, validation, the text form.
