"""Plans with a stated bound: batches, rescue, consolidation, purchase. Imports the core, never what is learned."""
