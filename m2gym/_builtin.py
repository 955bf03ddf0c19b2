"""What m2gym itself registers, by import string: nothing is imported until it is asked for."""

from m2gym.core.registry import BACKENDS, ENVS, REWARDS, SCAFFOLDS, TASKSETS, WORKSPACES


def register_all() -> None:
    """Register every part that comes with m2gym."""
    ENVS.register("swe-repo", "m2gym.envs.swe_repo:ENTRY")
    TASKSETS.register("swe-repo", "m2gym.tasksets.swe_repo:SweRepo")
    TASKSETS.register("swe-bench", "m2gym.tasksets.swe_bench_tasks:SweBench")
    REWARDS.register("tests-pass", "m2gym.rewards.repository_tests:tests_pass")
    REWARDS.register("tests-fraction", "m2gym.rewards.repository_tests:tests_fraction")
    REWARDS.register("test-script", "m2gym.rewards.script:script_reward")
    REWARDS.register("swe-bench", "m2gym.rewards.swe_bench:swe_bench_reward")
    WORKSPACES.register("local", "m2gym.workspaces.local:LocalWorkspace")
    WORKSPACES.register("process", "m2gym.workspaces.process:ProcessWorkspace")
    SCAFFOLDS.register("gold", "m2gym.scaffolds.gold:Gold")
    SCAFFOLDS.register("noop", "m2gym.scaffolds.noop:Noop")
    SCAFFOLDS.register("scripted", "m2gym.scaffolds.scripted:Scripted")
    SCAFFOLDS.register("random", "m2gym.scaffolds.random_commands:RandomCommands")
    SCAFFOLDS.register("human", "m2gym.scaffolds.human:Human")
    SCAFFOLDS.register("react", "m2gym.scaffolds.react:React")
    SCAFFOLDS.register("bash", "m2gym.scaffolds.react:Bash")
    SCAFFOLDS.register("program", "m2gym.scaffolds.program:Program")
    SCAFFOLDS.register("remote", "m2gym.scaffolds.remote:Remote")
    SCAFFOLDS.register("command", "m2gym.scaffolds.blackbox.command:CommandAgent")
    SCAFFOLDS.register("mini-swe-agent", "m2gym.scaffolds.blackbox.mini:MiniSweAgent")
    SCAFFOLDS.register("aider", "m2gym.scaffolds.blackbox.aider:Aider")
    SCAFFOLDS.register("openhands", "m2gym.scaffolds.blackbox.openhands:OpenHands")
    SCAFFOLDS.register("codex", "m2gym.scaffolds.blackbox.codex:Codex")
    SCAFFOLDS.register("claude-code", "m2gym.scaffolds.blackbox.claude:ClaudeCode")
    SCAFFOLDS.register("gemini-cli", "m2gym.scaffolds.blackbox.gemini:GeminiCli")
    SCAFFOLDS.register("opencode", "m2gym.scaffolds.blackbox.opencode:OpenCode")
    SCAFFOLDS.register("qwen-code", "m2gym.scaffolds.blackbox.qwen:QwenCode")
    BACKENDS.register("local", "m2gym.backends.local.backend:LocalBackend")
    BACKENDS.register("scripted", "m2gym.models.builtin:ScriptedBackend")
    BACKENDS.register("replay", "m2gym.models.builtin:ReplayBackend")
    BACKENDS.register("litellm", "m2gym.backends.litellm_backend:LiteLLMBackend")
    BACKENDS.register("openai-compatible", "m2gym.backends.openai_compatible:OpenAICompatible")
